# Three buckets: data to train on, models (the checkpoint registry of docs/adr/0008), and who touched either.

locals {
  lifecycle = {
    # Decisions go when Redis forgets them as well. Outcomes stay: they hold the opt-outs, which hold for good and which
    # a lost region is rebuilt from. So do data sets.
    data = [{ age = var.retention_days, prefixes = ["records/decisions/"] }]
    # Blobs are named by the catalogues and are never deleted by age.
    models = []
  }
}

resource "google_storage_bucket" "logs" {
  # checkov:skip=CKV_GCP_62:it is the log of the others; logging itself would never end
  # checkov:skip=CKV_GCP_63:it has no log at all, which the check takes for itself
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-logs"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy

  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      age = var.retention_days
    }
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      days_since_noncurrent_time = 30
    }
  }
}

# Access logs are written by a group of Google's.
resource "google_storage_bucket_iam_member" "access_logs" {
  bucket = google_storage_bucket.logs.name
  role   = "roles/storage.objectCreator"
  member = "group:cloud-storage-analytics@google.com"
}

resource "google_storage_bucket" "this" {
  for_each = local.lifecycle

  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy

  # What was replaced or deleted by mistake can be had back for 30 days.
  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      days_since_noncurrent_time = 30
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }

    condition {
      age = 7
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value

    content {
      action {
        type = "Delete"
      }

      condition {
        age            = lifecycle_rule.value.age
        matches_prefix = lifecycle_rule.value.prefixes
      }
    }
  }

  logging {
    log_bucket        = google_storage_bucket.logs.name
    log_object_prefix = each.key
  }
}

# Who wrote what: Cloud Storage keeps no audit log of it unless told to (docs/runbooks/CheckpointRefused.md).
resource "google_project_iam_audit_config" "writes" {
  project = var.project_id
  service = "storage.googleapis.com"

  audit_log_config {
    log_type = "DATA_WRITE"
  }
}

resource "google_storage_bucket_iam_member" "models_readers" {
  for_each = var.models_readers

  bucket = google_storage_bucket.this["models"].name
  role   = "roles/storage.objectViewer"
  member = each.value
}

# Replacing a kind's catalogue needs the right to delete, which objectCreator lacks.
resource "google_storage_bucket_iam_member" "models_writers" {
  for_each = var.models_writers

  bucket = google_storage_bucket.this["models"].name
  role   = "roles/storage.objectUser"
  member = each.value
}

# Trainers list the whole bucket, which their mount needs, and read what is for them: all but these folders.
resource "google_storage_bucket_iam_member" "data_readers" {
  for_each = var.data_readers

  bucket = google_storage_bucket.this["data"].name
  role   = "roles/storage.objectViewer"
  member = each.value

  condition {
    title = "data sets"
    expression = join(" && ", [
      for folder in ["records", "deploy", "builds"] :
      "!resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.this["data"].name}/objects/${folder}/\")"
    ])
  }
}

# Builds read what the chart is installed with, and leave what they found out about their images. Nothing else of
# the bucket is theirs.
resource "google_storage_bucket_iam_member" "builders" {
  for_each = merge([
    for name, member in var.builders : {
      "${name}/deploy" = { member = member, role = "roles/storage.objectViewer", prefix = "deploy/" }
      "${name}/builds" = { member = member, role = "roles/storage.objectCreator", prefix = "builds/" }
    }
  ]...)

  bucket = google_storage_bucket.this["data"].name
  role   = each.value.role
  member = each.value.member

  condition {
    title      = trimsuffix(each.value.prefix, "/")
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.this["data"].name}/objects/${each.value.prefix}\")"
  }
}
