# What the chart is installed with: `terraform output -json helm_values > values-terraform.json`, then
# `helm upgrade --install … -f values-terraform.json`. The keys are those of charts/churn-saver/values.yaml.

locals {
  service_accounts = { for service in local.services : service => { serviceAccount = { name = service } } }
}

output "helm_values" {
  description = "Values of the chart that depend on what was made here."
  value = merge(local.service_accounts, {
    image = { registry = module.registry.path }

    settings = {
      registry = { url = "gs://${module.storage.buckets.models}/checkpoints" }
      redis    = { iam = true }
      events = {
        project         = var.project_id
        topic           = module.pubsub.topics["checkpoint-events"]
        decisions_topic = module.pubsub.topics["decisions"]
        outcomes_topic  = module.pubsub.topics["outcomes"]
      }
    }

    workloadIdentity = { serviceAccount = module.identity.emails.app_runtime }

    secrets = {
      keys = { redisCa = "ca.pem" }
      externalSecret = {
        remoteKeys = {
          pseudonymKey = module.secrets.names["pseudonym-key"]
          redisUrl     = module.secrets.names["redis-url"]
          redisCa      = module.secrets.names["redis-ca"]
          trustedKeys  = module.secrets.names["trusted-keys"]
        }
      }
    }

    networkPolicy = {
      loadBalancerCidrs = ["130.211.0.0/22", "35.191.0.0/16", module.network.ranges.proxies]
      redis             = { peers = [{ ipBlock = { cidr = module.network.ranges.endpoints } }] }
    }

    monitoring = { podMonitoring = { enabled = true } }

    trainers = {
      data = { bucket = module.storage.buckets.data }
      serviceAccount = {
        name        = "trainer"
        annotations = { "iam.gke.io/gcp-service-account" = module.identity.emails.trainer }
      }
    }
  })
}

output "cluster" {
  description = "For `gcloud container clusters get-credentials NAME --location LOCATION --dns-endpoint`."
  value       = { name = module.gke.name, location = module.gke.location, namespace = var.namespace }
}

output "ci_builder" {
  description = "The account that Cloud Build runs as: `serviceAccount` of cloudbuild.yaml or of its trigger."
  value       = module.identity.emails.ci_builder
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
