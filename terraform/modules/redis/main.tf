# The contact ledger, on Memorystore for Valkey, which speaks Redis' protocol.

# Lets Memorystore put its endpoint into our network.
resource "google_network_connectivity_service_connection_policy" "this" {
  project       = var.project_id
  name          = "${var.name}-redis"
  location      = var.region
  service_class = "gcp-memorystore"
  network       = var.network_id

  psc_config {
    subnetworks = [var.subnetwork_id]
  }
}

resource "google_memorystore_instance" "this" {
  project        = var.project_id
  instance_id    = var.name
  location       = var.region
  engine_version = "VALKEY_8_0"
  node_type      = var.node_type
  replica_count  = var.replica_count

  # The gateway's scripts touch several keys at once, which a cluster's shards would not allow.
  mode        = "CLUSTER_DISABLED"
  shard_count = 1

  transit_encryption_mode     = "SERVER_AUTHENTICATION"
  authorization_mode          = "IAM_AUTH"
  deletion_protection_enabled = var.deletion_protection

  # The default evicts keys that expire, and contacts and idempotency keys do: the ledger refuses rather than forgets.
  engine_configs = {
    maxmemory-policy = "noeviction"
  }

  # A second of bookings may be lost with a node; the gateways' journals know of them and rebuild.
  persistence_config {
    mode = "AOF"

    aof_config {
      append_fsync = "EVERY_SEC"
    }
  }

  automated_backup_config {
    retention = "1209600s" # 14 days

    fixed_frequency_schedule {
      start_time {
        hours = 2
      }
    }
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = "WEDNESDAY"

      start_time {
        hours = 2
      }
    }
  }

  desired_auto_created_endpoints {
    network    = var.network_id
    project_id = var.project_id
  }

  depends_on = [google_network_connectivity_service_connection_policy.this]
}

resource "google_project_iam_member" "users" {
  for_each = var.users

  project = var.project_id
  role    = "roles/memorystore.dbConnectionUser"
  member  = each.value
}
