# An Autopilot cluster: Google runs the nodes, which are shielded and hardened and carry Dataplane V2, and a pod that
# asks for a GPU gets a node with one for as long as it runs. A pool of GPU nodes of our own would cost while idle.

resource "google_container_cluster" "this" {
  # checkov:skip=CKV_GCP_12:Autopilot enforces network policies by Dataplane V2, and refuses this setting
  # checkov:skip=CKV_GCP_20:the control plane has no IP address to restrict; IAM guards its DNS name
  # checkov:skip=CKV_GCP_21:labels come from the provider's default_labels, which the check does not see
  # checkov:skip=CKV_GCP_61:Autopilot has intranode visibility always on, and refuses this setting
  # checkov:skip=CKV_GCP_65:groups need a Workspace domain that not everyone has; people get in by IAM
  # checkov:skip=CKV_GCP_68:Autopilot's nodes always boot securely
  # checkov:skip=CKV_GCP_69:Autopilot always has the metadata server of Workload Identity
  project             = var.project_id
  name                = var.name
  location            = var.region
  enable_autopilot    = true
  deletion_protection = var.deletion_protection

  network    = var.network
  subnetwork = var.subnetwork

  ip_allocation_policy {
    cluster_secondary_range_name  = var.pods_range_name
    services_secondary_range_name = var.services_range_name
  }

  private_cluster_config {
    enable_private_nodes = true
  }

  # The control plane has no address: kubectl and Cloud Build reach it by its DNS name, where IAM decides who may.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }

    ip_endpoints_config {
      enabled = false
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  rbac_binding_config {
    enable_insecure_binding_system_authenticated   = false
    enable_insecure_binding_system_unauthenticated = false
  }

  # Without this, nodes run as the project's default account, which may do nearly everything.
  cluster_autoscaling {
    auto_provisioning_defaults {
      service_account = var.node_service_account
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    }
  }

  release_channel {
    channel = var.release_channel
  }

  # Nights in the middle of the week, when somebody is there the next morning.
  maintenance_policy {
    recurring_window {
      start_time = "2026-01-06T01:00:00Z"
      end_time   = "2026-01-06T07:00:00Z"
      recurrence = "FREQ=WEEKLY;BYDAY=TU,WE,TH"
    }
  }

  binary_authorization {
    evaluation_mode = "PROJECT_SINGLETON_POLICY_ENFORCE"
  }

  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  secret_manager_config {
    enabled = true
  }

  security_posture_config {
    mode = "BASIC"
  }

  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS", "DEPLOYMENT", "POD", "HPA", "CADVISOR", "KUBELET"]

    managed_prometheus {
      enabled = true
    }
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS"]
  }
}
