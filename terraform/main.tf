# One environment, in one project. environments/dev and environments/prod call it with their sizes.

locals {
  name       = "churn-saver"
  production = var.environment == "prod"
  services   = ["gateway", "decision", "generator", "shield"]
  promoters  = var.promoted_by == null ? {} : { promoter = "serviceAccount:${var.promoted_by}" }
}

data "google_project" "this" {
  project_id = var.project_id
}

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry", "binaryauthorization", "certificatemanager", "cloudbuild", "cloudkms", "compute", "container",
    "containeranalysis", "containerscanning", "iam", "iamcredentials", "logging", "memorystore", "monitoring",
    "networkconnectivity", "pubsub", "secretmanager", "serviceconsumermanagement", "storage",
  ])

  project = var.project_id
  service = "${each.key}.googleapis.com"
  # Others in the project may use it too, and switching an API off deletes what it made.
  disable_on_destroy = false

  # Everything waits for this, and this for every value that a person gives: with a wrong one, nothing is planned.
  depends_on = [
    var.alert_emails, var.allowed_images, var.environment, var.namespace, var.network_cidr,
    var.promoted_by, var.record_days, var.redis, var.region, var.release_channel,
  ]
}

module "network" {
  source = "./modules/network"

  project_id = var.project_id
  region     = var.region
  name       = local.name
  cidr       = var.network_cidr

  depends_on = [google_project_service.this]
}

module "registry" {
  source = "./modules/registry"

  project_id = var.project_id
  region     = var.region
  name       = local.name
  readers    = { nodes = module.identity.members.nodes }
  writers    = merge({ ci_builder = module.identity.members.ci_builder }, local.promoters)
  signers    = { ci_builder = module.identity.members.ci_builder }
  allowed    = var.allowed_images
  enforce    = local.production

  depends_on = [google_project_service.this]
}

module "gke" {
  source = "./modules/gke"

  project_id           = var.project_id
  region               = var.region
  name                 = local.name
  network              = module.network.network
  subnetwork           = module.network.subnetwork
  pods_range_name      = module.network.pods_range_name
  services_range_name  = module.network.services_range_name
  node_service_account = module.identity.emails.nodes
  release_channel      = var.release_channel
  deletion_protection  = local.production

  depends_on = [google_project_service.this]
}

module "identity" {
  source = "./modules/identity"

  project_id    = var.project_id
  workload_pool = module.gke.workload_pool
  namespace     = var.namespace
  runtime       = local.services
  trainer       = ["trainer"]

  depends_on = [google_project_service.this]
}

module "storage" {
  source = "./modules/storage"

  project_id     = var.project_id
  region         = var.region
  name           = local.name
  retention_days = var.record_days
  force_destroy  = !local.production
  models_readers = { app_runtime = module.identity.members.app_runtime }
  models_writers = { trainer = module.identity.members.trainer }
  data_readers   = { trainer = module.identity.members.trainer }
  builders       = { ci_builder = module.identity.members.ci_builder }

  depends_on = [google_project_service.this]
}

module "pubsub" {
  source = "./modules/pubsub"

  project_id     = var.project_id
  project_number = data.google_project.this.number
  region         = var.region
  records_bucket = module.storage.buckets.data
  publishers = {
    "checkpoint-events" = { app_runtime = module.identity.members.app_runtime, trainer = module.identity.members.trainer }
    decisions           = { app_runtime = module.identity.members.app_runtime }
    outcomes            = { app_runtime = module.identity.members.app_runtime }
    promotions          = local.promoters
  }
  followers = { app_runtime = module.identity.members.app_runtime }

  depends_on = [google_project_service.this]
}

module "redis" {
  source = "./modules/redis"

  project_id          = var.project_id
  region              = var.region
  name                = local.name
  network_id          = module.network.network_id
  subnetwork_id       = module.network.endpoints_subnetwork_id
  node_type           = var.redis.node_type
  replica_count       = var.redis.replica_count
  users               = { app_runtime = module.identity.members.app_runtime }
  deletion_protection = local.production

  depends_on = [google_project_service.this]
}

module "secrets" {
  source = "./modules/secrets"

  project_id = var.project_id
  region     = var.region
  accessors = {
    pseudonym-key          = { app_runtime = module.identity.members.app_runtime }
    trusted-keys           = { app_runtime = module.identity.members.app_runtime, trainer = module.identity.members.trainer }
    redis-url              = { app_runtime = module.identity.members.app_runtime }
    redis-ca               = { app_runtime = module.identity.members.app_runtime }
    checkpoint-signing-key = { trainer = module.identity.members.trainer }
  }
  # Neither is secret, but the chart takes what Redis needs from one place. It mounts the certificates there.
  public_values = {
    redis-url = "${module.redis.url}?ssl_ca_certs=/etc/churn-saver-redis/ca.pem"
    redis-ca  = module.redis.ca_certificates
  }
  deletion_protection = local.production

  depends_on = [google_project_service.this]
}

module "monitoring" {
  source = "./modules/monitoring"

  project_id   = var.project_id
  name         = local.name
  alert_emails = var.alert_emails

  depends_on = [google_project_service.this]
}
