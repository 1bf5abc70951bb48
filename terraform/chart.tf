# What the chart is installed with. The keys are those of charts/churn-saver/values.yaml. Builds find it in the data
# bucket; people write `terraform output -json helm_values > values-terraform.json`.

locals {
  service_accounts = { for service in local.services : service => { serviceAccount = { name = service } } }

  helm_values = merge(local.service_accounts, {
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

resource "google_storage_bucket_object" "helm_values" {
  bucket       = module.storage.buckets.data
  name         = "deploy/values-terraform.json"
  content      = jsonencode(local.helm_values)
  content_type = "application/json"
}

output "helm_values" {
  description = "Values of the chart that depend on what was made here."
  value       = local.helm_values
}
