# Images, who says that one was tested, and the rule that the cluster runs no others.

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

# Whoever holds this key says of an image: it was tested and scanned. It is made by Google and never leaves it.
resource "google_kms_key_ring" "this" {
  project  = var.project_id
  location = var.region
  name     = var.name
}

resource "google_kms_crypto_key" "images" {
  # checkov:skip=CKV_GCP_82:a signing key may be replaced; nothing that it signed becomes unreadable
  # checkov:skip=CKV_GCP_43:asymmetric keys are not rotated by the service
  name     = "images"
  key_ring = google_kms_key_ring.this.id
  purpose  = "ASYMMETRIC_SIGN"

  version_template {
    algorithm        = "EC_SIGN_P256_SHA256"
    protection_level = "HSM"
  }
}

data "google_kms_crypto_key_version" "images" {
  crypto_key = google_kms_crypto_key.images.id
}

resource "google_container_analysis_note" "tested" {
  project           = var.project_id
  name              = "${var.name}-tested"
  short_description = "Tested and scanned by Cloud Build."

  attestation_authority {
    hint {
      human_readable_name = "Tested and scanned by Cloud Build"
    }
  }
}

resource "google_binary_authorization_attestor" "tested" {
  project = var.project_id
  name    = "${var.name}-tested"

  attestation_authority_note {
    note_reference = google_container_analysis_note.tested.name

    public_keys {
      id = data.google_kms_crypto_key_version.images.id

      pkix_public_key {
        public_key_pem      = data.google_kms_crypto_key_version.images.public_key[0].pem
        signature_algorithm = data.google_kms_crypto_key_version.images.public_key[0].algorithm
      }
    }
  }
}
resource "google_kms_crypto_key_iam_member" "signers" {
  for_each = var.signers

  crypto_key_id = google_kms_crypto_key.images.id
  role          = "roles/cloudkms.signerVerifier"
  member        = each.value
}

resource "google_binary_authorization_attestor_iam_member" "signers" {
  for_each = var.signers

  project  = var.project_id
  attestor = google_binary_authorization_attestor.tested.name
  role     = "roles/binaryauthorization.attestorsViewer"
  member   = each.value
}

resource "google_container_analysis_note_iam_member" "signers" {
  for_each = var.signers

  project = var.project_id
  note    = google_container_analysis_note.tested.name
  role    = "roles/containeranalysis.notes.attacher"
  member  = each.value
}

# An attestation is an occurrence of the note, kept in the project; the ready-made role could change others as well.
resource "google_project_iam_custom_role" "signer" {
  project     = var.project_id
  role_id     = "churnSaverImageSigner"
  title       = "Churn-Saver image signer"
  description = "Adds attestations to images."
  permissions = ["containeranalysis.occurrences.create", "containeranalysis.occurrences.get"]
}

resource "google_project_iam_member" "signers" {
  for_each = var.signers

  project = var.project_id
  role    = google_project_iam_custom_role.signer.id
  member  = each.value
}

resource "google_binary_authorization_policy" "this" {
  project                       = var.project_id
  description                   = "Images that Cloud Build tested, and Google's own for the cluster."
  global_policy_evaluation_mode = "ENABLE"

  dynamic "admission_whitelist_patterns" {
    for_each = var.allowed

    content {
      name_pattern = admission_whitelist_patterns.value
    }
  }

  default_admission_rule {
    evaluation_mode         = "REQUIRE_ATTESTATION"
    enforcement_mode        = var.enforce ? "ENFORCED_BLOCK_AND_AUDIT_LOG" : "DRYRUN_AUDIT_LOG_ONLY"
    require_attestations_by = [google_binary_authorization_attestor.tested.name]
  }
}
