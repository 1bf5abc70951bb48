# Topics. checkpoint-events carries hints (docs/adr/0009): each pod makes a subscription of its own, which expires a
# day after it. Records (decisions, outcomes) are written to a bucket by Pub/Sub itself; what it cannot write after
# some tries goes to dead-letters and waits there for a person. On promotions, the environment before this one asks for a
# release, which a person approves (cloudbuild.promote.yaml).

locals {
  records       = toset(["decisions", "outcomes"])
  service_agent = "serviceAccount:service-${var.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  publishers = merge([
    for topic, members in var.publishers : {
      for name, member in members : "${topic}/${name}" => { topic = topic, member = member }
    }
  ]...)
}

resource "google_pubsub_topic" "this" {
  # checkov:skip=CKV_GCP_83:Google encrypts it; keys of our own would be one more thing whose loss loses everything
  for_each = toset(concat(["checkpoint-events", "dead-letters", "promotions"], tolist(local.records)))

  project = var.project_id
  name    = each.key

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

resource "google_pubsub_subscription" "records" {
  for_each = local.records

  project                    = var.project_id
  name                       = each.key
  topic                      = google_pubsub_topic.this[each.key].id
  ack_deadline_seconds       = 300
  message_retention_duration = "604800s" # 7 days: longer than any outage of the bucket

  cloud_storage_config {
    bucket                   = var.records_bucket
    filename_prefix          = "records/${each.key}/"
    filename_suffix          = ".jsonl"
    filename_datetime_format = "YYYY/MM/DD/hh_mm_ssZ"
    max_duration             = "300s"
    max_bytes                = 10485760
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.this["dead-letters"].id
    max_delivery_attempts = 10
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # A quiet month must not cost the subscription.
  expiration_policy {
    ttl = ""
  }

  depends_on = [google_storage_bucket_iam_member.service_agent]
}

resource "google_pubsub_subscription" "dead_letters" {
  project                    = var.project_id
  name                       = "dead-letters"
  topic                      = google_pubsub_topic.this["dead-letters"].id
  ack_deadline_seconds       = 60
  message_retention_duration = "2678400s" # 31 days, the service's most

  expiration_policy {
    ttl = ""
  }
}

# Pub/Sub itself forwards dead letters and writes the files.
resource "google_pubsub_topic_iam_member" "dead_letters" {
  project = var.project_id
  topic   = google_pubsub_topic.this["dead-letters"].name
  role    = "roles/pubsub.publisher"
  member  = local.service_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letters" {
  for_each = google_pubsub_subscription.records

  project      = var.project_id
  subscription = each.value.name
  role         = "roles/pubsub.subscriber"
  member       = local.service_agent
}

resource "google_storage_bucket_iam_member" "service_agent" {
  for_each = toset(["roles/storage.objectCreator", "roles/storage.legacyBucketReader"])

  bucket = var.records_bucket
  role   = each.key
  member = local.service_agent
}

resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = local.publishers

  project = var.project_id
  topic   = google_pubsub_topic.this[each.value.topic].name
  role    = "roles/pubsub.publisher"
  member  = each.value.member
}

# A pod attaches to this topic only; its subscriptions have names of their own, so the right to make, read and drop
# them can only be given for the project.
resource "google_pubsub_topic_iam_member" "followers" {
  for_each = var.followers

  project = var.project_id
  topic   = google_pubsub_topic.this["checkpoint-events"].name
  role    = "roles/pubsub.subscriber"
  member  = each.value
}

resource "google_project_iam_custom_role" "follower" {
  project     = var.project_id
  role_id     = "churnSaverCheckpointFollower"
  title       = "Churn-Saver checkpoint follower"
  description = "Makes, pulls and drops the subscriptions that a pod listens for new checkpoints with."
  permissions = [
    "pubsub.subscriptions.consume",
    "pubsub.subscriptions.create",
    "pubsub.subscriptions.delete",
    "pubsub.subscriptions.get",
  ]
}

resource "google_project_iam_member" "followers" {
  for_each = var.followers

  project = var.project_id
  role    = google_project_iam_custom_role.follower.id
  member  = each.value
}
