# Secrets and who may read them. Real values are added by hand (README.md), or they would stand in the state.

locals {
  accessors = merge([
    for secret, members in var.accessors : {
      for name, member in members : "${secret}/${name}" => { secret = secret, member = member }
    }
  ]...)
}

resource "google_secret_manager_secret" "this" {
  for_each = var.accessors

  project             = var.project_id
  secret_id           = each.key
  deletion_protection = var.deletion_protection
  # A version that was destroyed by mistake can be had back for a day.
  version_destroy_ttl = "86400s"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

resource "google_secret_manager_secret_iam_member" "accessors" {
  for_each = local.accessors

  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value.member
}

resource "google_secret_manager_secret_version" "public" {
  for_each = var.public_values

  secret      = google_secret_manager_secret.this[each.key].id
  secret_data = each.value
}
