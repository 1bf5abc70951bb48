output "helm_values" {
  description = "Values of the chart that depend on what was made here."
  value       = module.churn_saver.helm_values
}

output "cluster" {
  description = "For `gcloud container clusters get-credentials NAME --location LOCATION --dns-endpoint`."
  value       = module.churn_saver.cluster
}

output "ci_builder" {
  description = "The account that Cloud Build runs as."
  value       = module.churn_saver.ci_builder
}

output "secrets_to_fill" {
  description = "Secrets whose values are added by hand before the chart is installed."
  value       = module.churn_saver.secrets_to_fill
}

output "cloud_build" {
  description = "Substitutions of cloudbuild.yaml and cloudbuild.promote.yaml that say what was made here."
  value       = module.churn_saver.cloud_build
}

output "promotion" {
  description = "Substitutions of cloudbuild.yaml in dev, for its builds to ask for a release here."
  value       = module.churn_saver.promotion
}
