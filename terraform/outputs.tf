output "cluster" {
  description = "For `gcloud container clusters get-credentials NAME --location LOCATION --dns-endpoint`."
  value       = { name = module.gke.name, location = module.gke.location, namespace = var.namespace }
}

output "ci_builder" {
  description = "The account that Cloud Build runs as: `serviceAccount` of cloudbuild.yaml or of its trigger."
  value       = module.identity.emails.ci_builder
}

output "cloud_build" {
  description = "Substitutions of cloudbuild.yaml and cloudbuild.promote.yaml that say what was made here."
  value = {
    _ATTESTOR  = module.registry.attestor
    _BUCKET    = module.storage.buckets.data
    _CLUSTER   = module.gke.name
    _KEY       = module.registry.key_version
    _NAMESPACE = var.namespace
    _REGION    = var.region
    _REGISTRY  = module.registry.path
  }
}

output "promotion" {
  description = "Substitutions of cloudbuild.yaml in the environment that releases come from."
  value = {
    _PROMOTE_REGISTRY = module.registry.path
    _PROMOTE_TOPIC    = "projects/${var.project_id}/topics/${module.pubsub.topics["promotions"]}"
  }
}

output "secrets_to_fill" {
  description = "Secrets whose values are added by hand before the chart is installed."
  value       = module.secrets.to_fill
}

output "buckets" {
  description = "Names of the buckets data, models and logs."
  value       = module.storage.buckets
}

output "alerts" {
  description = "Names of the alerts."
  value       = module.monitoring.alerts
}
