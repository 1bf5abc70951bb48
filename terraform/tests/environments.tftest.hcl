# What is made with the sizes that are given when nobody says otherwise, and with those of dev and of prod.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }

  mock_data "google_kms_crypto_key_version" {
    defaults = { name = "the-key/cryptoKeyVersions/1", public_key = [{ pem = "PEM", algorithm = "EC_SIGN_P256_SHA256" }] }
  }

  # Every account gets these; which account has which right is asserted by the bindings' keys.
  mock_resource "google_service_account" {
    defaults = {
      name   = "projects/example-project/serviceAccounts/account@example-project.iam.gserviceaccount.com"
      email  = "account@example-project.iam.gserviceaccount.com"
      member = "serviceAccount:account@example-project.iam.gserviceaccount.com"
    }
  }

  mock_resource "google_memorystore_instance" {
    defaults = {
      endpoints = [{
        connections = [
          { psc_auto_connection = [{ connection_type = "CONNECTION_TYPE_PRIMARY", ip_address = "10.64.128.2", port = 6379 }] },
          { psc_auto_connection = [{ connection_type = "CONNECTION_TYPE_READER", ip_address = "10.64.128.3", port = 6379 }] },
        ]
      }]
      managed_server_ca = [{ ca_certs = [{ certificates = ["root", "issuing"] }] }]
    }
  }
}

variables {
  project_id   = "example-project"
  alert_emails = ["on-call@example.com"]
}

run "defaults" {
  variables {
    environment = "dev"
  }

  assert {
    condition     = module.gke.location == "europe-west1" && output.cluster.namespace == "churn-saver"
    error_message = "the region's or the namespace's default changed; charts and documents name them"
  }

  assert {
    condition     = output.helm_values.image.registry == "europe-west1-docker.pkg.dev/example-project/churn-saver"
    error_message = "the images' path is wrong"
  }

  assert {
    condition     = output.helm_values.settings.registry.url == "gs://example-project-churn-saver-models/checkpoints"
    error_message = "the registry's URL is wrong"
  }

  assert {
    condition = output.helm_values.settings.events == {
      project         = "example-project"
      topic           = "checkpoint-events"
      decisions_topic = "decisions"
      outcomes_topic  = "outcomes"
    }
    error_message = "events are not on the project's topics"
  }

  assert {
    condition     = output.helm_values.settings.redis.iam && module.redis.authorization == "IAM_AUTH"
    error_message = "the gateway and Redis do not agree on how one logs in"
  }

  # As cut from 10.64.0.0/14: nodes, services, endpoints and proxies in the lower half, pods in the upper.
  assert {
    condition = module.network.ranges == {
      nodes     = "10.64.0.0/20"
      services  = "10.64.16.0/20"
      endpoints = "10.64.32.0/20"
      proxies   = "10.64.48.0/20"
      pods      = "10.66.0.0/15"
    }
    error_message = "the ranges are not those of network_cidr"
  }

  assert {
    condition     = module.redis.url == "rediss://10.64.128.2:6379/0" && module.redis.ca_certificates == "root\nissuing"
    error_message = "Redis' URL is not that of the primary with TLS, or its certificates are not joined"
  }

  assert {
    condition = alltrue([
      for service in ["gateway", "decision", "generator", "shield"] :
      contains(keys(module.identity.workload_identities), "app_runtime/${service}")
      && output.helm_values[service].serviceAccount.name == service
    ])
    error_message = "a service's pods are not app-runtime"
  }

  assert {
    condition     = module.identity.workload_identities["trainer/trainer"] == "serviceAccount:example-project.svc.id.goog[churn-saver/trainer]"
    error_message = "the trainers' pods are not trainer"
  }

  # What the pipeline is told; the names are those of cloudbuild.yaml, which a test compares.
  assert {
    condition = output.cloud_build == {
      _ATTESTOR  = "churn-saver-tested"
      _BUCKET    = "example-project-churn-saver-data"
      _CLUSTER   = "churn-saver"
      _KEY       = "the-key/cryptoKeyVersions/1"
      _NAMESPACE = "churn-saver"
      _REGION    = "europe-west1"
      _REGISTRY  = "europe-west1-docker.pkg.dev/example-project/churn-saver"
    }
    error_message = "the pipeline is told something else than what was made"
  }

  assert {
    condition     = jsondecode(google_storage_bucket_object.helm_values.content) == jsondecode(jsonencode(output.helm_values))
    error_message = "builds install the chart with other values than people"
  }

  assert {
    condition     = length([for key in keys(module.pubsub.publishers) : key if startswith(key, "promotions/")]) == 0
    error_message = "somebody may ask for a release although nobody was named"
  }
}

run "dev" {
  command = plan

  module {
    source = "./environments/dev"
  }

  assert {
    condition     = output.cluster.name == "churn-saver" && output.cluster.location == "europe-west1"
    error_message = "dev's cluster is not where the README says"
  }
}

run "prod" {
  command = plan

  module {
    source = "./environments/prod"
  }

  variables {
    region = "us-east1"
  }

  assert {
    condition     = output.cluster.location == "us-east1"
    error_message = "the region does not reach the cluster"
  }

  assert {
    condition     = output.helm_values.image.registry == "us-east1-docker.pkg.dev/example-project/churn-saver"
    error_message = "the region does not reach the images' path"
  }
}

run "promoted_from_dev" {
  variables {
    environment = "prod"
    redis       = { node_type = "STANDARD_SMALL", replica_count = 1 }
    promoted_by = "ci-builder@example-dev.iam.gserviceaccount.com"
  }

  assert {
    condition     = module.pubsub.publishers["promotions/promoter"] == "serviceAccount:ci-builder@example-dev.iam.gserviceaccount.com"
    error_message = "dev's builds may not ask for a release"
  }

  assert {
    condition     = module.registry.writers["promoter"] == "serviceAccount:ci-builder@example-dev.iam.gserviceaccount.com" && keys(module.registry.signers) == ["ci_builder"]
    error_message = "dev's builds cannot bring images, or may say that they are fit for prod"
  }

  assert {
    condition = output.promotion == {
      _PROMOTE_REGISTRY = "europe-west1-docker.pkg.dev/example-project/churn-saver"
      _PROMOTE_TOPIC    = "projects/example-project/topics/promotions"
    }
    error_message = "dev is told something else than what was made"
  }
}
