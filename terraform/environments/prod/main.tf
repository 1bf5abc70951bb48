# Protected against deletion; a ledger with a replica; only images of our own repository run.

module "churn_saver" {
  source = "../.."

  environment    = "prod"
  project_id     = var.project_id
  region         = var.region
  alert_emails   = var.alert_emails
  allowed_images = var.allowed_images
  promoted_by    = var.promoted_by

  release_channel = "STABLE"
  record_days     = 400
  redis           = { node_type = "STANDARD_SMALL", replica_count = 1 }
}
