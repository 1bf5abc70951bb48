# Small, and easy to throw away: buckets go with what is in them, and foreign images are only reported.

module "churn_saver" {
  source = "../.."

  environment    = "dev"
  project_id     = var.project_id
  region         = var.region
  alert_emails   = var.alert_emails
  allowed_images = var.allowed_images

  release_channel = "REGULAR"
  record_days     = 30
  redis           = { node_type = "SHARED_CORE_NANO", replica_count = 0 }
}
