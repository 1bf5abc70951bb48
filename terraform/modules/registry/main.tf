# Images, and the rule that the cluster runs no others.

locals {
  path = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.this.repository_id}"
}

resource "google_artifact_registry_repository" "this" {
  # checkov:skip=CKV_GCP_84:Google encrypts it; keys of our own would be one more thing whose loss loses everything
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of the services and trainers, and the charts that go with them."
  format        = "DOCKER"

  # A tag that was tested is the tag that is rolled back to.
  docker_config {
    immutable_tags = true
  }

  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }

  # Only what no tag names: a tagged image may be what production runs, however old it is.
  cleanup_policies {
    id     = "delete-untagged"
    action = "DELETE"

    condition {
      tag_state  = "UNTAGGED"
      older_than = "2592000s" # 30 days
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "readers" {
  for_each = var.readers

  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.reader"
  member     = each.value
}

resource "google_artifact_registry_repository_iam_member" "writers" {
  for_each = var.writers

  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.writer"
  member     = each.value
}

resource "google_binary_authorization_policy" "this" {
  project                       = var.project_id
  description                   = "Images of our repository and Google's own for the cluster."
  global_policy_evaluation_mode = "ENABLE"

  dynamic "admission_whitelist_patterns" {
    for_each = setunion(["${local.path}/**"], var.allowed)

    content {
      name_pattern = admission_whitelist_patterns.value
    }
  }

  default_admission_rule {
    evaluation_mode  = "ALWAYS_DENY"
    enforcement_mode = var.enforce ? "ENFORCED_BLOCK_AND_AUDIT_LOG" : "DRYRUN_AUDIT_LOG_ONLY"
  }
}
