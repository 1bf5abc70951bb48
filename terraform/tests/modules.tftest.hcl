# Promises of single modules that are easy to break by accident.

mock_provider "google" {}

variables {
  project_id = "example-project"
  region     = "europe-west1"
  name       = "churn-saver"
}

run "redis_forgets_nothing" {
  command = plan

  module {
    source = "./modules/redis"
  }

  variables {
    network_id          = "projects/example-project/global/networks/churn-saver"
    subnetwork_id       = "projects/example-project/regions/europe-west1/subnetworks/churn-saver-endpoints"
    node_type           = "STANDARD_SMALL"
    replica_count       = 1
    users               = {}
    deletion_protection = true
  }

  assert {
    condition     = google_memorystore_instance.this.persistence_config[0].mode == "AOF" && google_memorystore_instance.this.engine_configs["maxmemory-policy"] == "noeviction"
    error_message = "the ledger may forget contacts"
  }

  assert {
    condition     = google_memorystore_instance.this.transit_encryption_mode == "SERVER_AUTHENTICATION" && google_memorystore_instance.this.authorization_mode == "IAM_AUTH"
    error_message = "the ledger is open, or speaks in the clear"
  }

  assert {
    condition     = google_memorystore_instance.this.mode == "CLUSTER_DISABLED" && google_memorystore_instance.this.shard_count == 1
    error_message = "the gateway's scripts need all keys on one shard"
  }
}

run "cluster_is_private" {
  command = plan

  module {
    source = "./modules/gke"
  }

  variables {
    network              = "churn-saver"
    subnetwork           = "churn-saver-nodes"
    pods_range_name      = "pods"
    services_range_name  = "services"
    node_service_account = "gke-nodes@example-project.iam.gserviceaccount.com"
    release_channel      = "STABLE"
    deletion_protection  = true
  }

  assert {
    condition = (
      google_container_cluster.this.private_cluster_config[0].enable_private_nodes
      && !google_container_cluster.this.control_plane_endpoints_config[0].ip_endpoints_config[0].enabled
    )
    error_message = "nodes or the control plane have a public address"
  }

  assert {
    condition     = google_container_cluster.this.cluster_autoscaling[0].auto_provisioning_defaults[0].service_account == "gke-nodes@example-project.iam.gserviceaccount.com"
    error_message = "nodes run as the project's default account"
  }

  assert {
    condition     = google_container_cluster.this.deletion_protection && google_container_cluster.this.monitoring_config[0].managed_prometheus[0].enabled
    error_message = "the cluster is unprotected, or its metrics are not collected"
  }
}

run "buckets_are_closed_and_versioned" {
  command = plan

  module {
    source = "./modules/storage"
  }

  variables {
    retention_days = 400
    force_destroy  = false
    models_readers = { app_runtime = "serviceAccount:app-runtime@example-project.iam.gserviceaccount.com" }
    models_writers = { trainer = "serviceAccount:trainer@example-project.iam.gserviceaccount.com" }
    data_readers   = { trainer = "serviceAccount:trainer@example-project.iam.gserviceaccount.com" }
    builders       = { ci_builder = "serviceAccount:ci-builder@example-project.iam.gserviceaccount.com" }
  }

  assert {
    condition = alltrue([
      for bucket in concat(values(google_storage_bucket.this), [google_storage_bucket.logs]) :
      bucket.uniform_bucket_level_access && bucket.public_access_prevention == "enforced" && bucket.versioning[0].enabled && !bucket.force_destroy
    ])
    error_message = "a bucket is not uniform, not closed, not versioned or not protected"
  }

  # A checkpoint that serves may be older than any age.
  assert {
    condition     = alltrue([for rule in google_storage_bucket.this["models"].lifecycle_rule : rule.condition[0].days_since_noncurrent_time != null || rule.action[0].type != "Delete"])
    error_message = "a lifecycle rule deletes live checkpoints"
  }

  assert {
    condition     = google_storage_bucket_iam_member.models_readers["app_runtime"].role == "roles/storage.objectViewer" && keys(google_storage_bucket_iam_member.models_writers) == ["trainer"]
    error_message = "services can write to the registry"
  }

  assert {
    condition = {
      for key, binding in google_storage_bucket_iam_member.builders : binding.role => binding.condition[0].expression
      } == {
      "roles/storage.objectViewer"  = "resource.name.startsWith(\"projects/_/buckets/example-project-churn-saver-data/objects/deploy/\")"
      "roles/storage.objectCreator" = "resource.name.startsWith(\"projects/_/buckets/example-project-churn-saver-data/objects/builds/\")"
    }
    error_message = "builds reach more of the data bucket than deploy/ and builds/"
  }

  # Opt-outs are among the outcomes.
  assert {
    condition = toset(flatten([
      for rule in google_storage_bucket.this["data"].lifecycle_rule : [for condition in rule.condition : coalesce(condition.matches_prefix, [])]
      if rule.action[0].type == "Delete" && rule.condition[0].days_since_noncurrent_time == null
    ])) == toset(["records/decisions/"])
    error_message = "an age deletes something else than decisions"
  }

  assert {
    condition = alltrue([
      for folder in ["records", "deploy", "builds"] :
      strcontains(google_storage_bucket_iam_member.data_readers["trainer"].condition[0].expression, "!resource.name.startsWith(\"projects/_/buckets/example-project-churn-saver-data/objects/${folder}/\")")
    ])
    error_message = "trainers read records, or what builds are told"
  }

  assert {
    condition     = google_project_iam_audit_config.writes.service == "storage.googleapis.com" && [for log in google_project_iam_audit_config.writes.audit_log_config : log.log_type] == ["DATA_WRITE"]
    error_message = "nobody could say who wrote to a bucket"
  }
}

run "records_end_in_the_bucket_or_among_the_dead_letters" {
  command = plan

  module {
    source = "./modules/pubsub"
  }

  variables {
    project_number = "123456789012"
    records_bucket = "example-project-churn-saver-data"
    publishers     = { decisions = { app_runtime = "serviceAccount:app-runtime@example-project.iam.gserviceaccount.com" } }
    followers      = { app_runtime = "serviceAccount:app-runtime@example-project.iam.gserviceaccount.com" }
  }

  assert {
    condition     = toset(keys(google_pubsub_topic.this)) == toset(["checkpoint-events", "dead-letters", "decisions", "outcomes", "promotions"])
    error_message = "a topic is missing or unknown"
  }

  assert {
    condition = alltrue([
      for name, subscription in google_pubsub_subscription.records :
      subscription.dead_letter_policy[0].max_delivery_attempts == 10 && subscription.cloud_storage_config[0].filename_prefix == "records/${name}/"
    ])
    error_message = "records have no dead letters, or do not go where their lifecycle is"
  }

  assert {
    condition     = google_pubsub_topic_iam_member.dead_letters.member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Pub/Sub itself may not forward dead letters"
  }
}

run "only_tested_images_run" {
  command = plan

  module {
    source = "./modules/registry"
  }

  variables {
    readers = {}
    writers = {}
    signers = { ci_builder = "serviceAccount:ci-builder@example-project.iam.gserviceaccount.com" }
    allowed = ["registry.example.com/operators/*"]
    enforce = true
  }

  assert {
    condition = (
      [for pattern in google_binary_authorization_policy.this.admission_whitelist_patterns : pattern.name_pattern] == ["registry.example.com/operators/*"]
      && google_binary_authorization_policy.this.default_admission_rule[0].evaluation_mode == "REQUIRE_ATTESTATION"
      && google_binary_authorization_policy.this.default_admission_rule[0].require_attestations_by == toset(["churn-saver-tested"])
      && google_binary_authorization_policy.this.default_admission_rule[0].enforcement_mode == "ENFORCED_BLOCK_AND_AUDIT_LOG"
    )
    error_message = "images run in prod that nobody said were tested"
  }

  # The key is Google's own hardware's, and only builds sign with it.
  assert {
    condition = (
      google_kms_crypto_key.images.purpose == "ASYMMETRIC_SIGN"
      && google_kms_crypto_key.images.version_template[0].protection_level == "HSM"
      && keys(google_kms_crypto_key_iam_member.signers) == ["ci_builder"]
    )
    error_message = "somebody else signs images, or with a key that can be copied"
  }
}

run "every_alert_reaches_everybody" {
  command = apply

  module {
    source = "./modules/monitoring"
  }

  variables {
    alert_emails = ["first@example.com", "second@example.com"]
  }

  assert {
    condition     = alltrue([for policy in values(google_monitoring_alert_policy.rule) : length(policy.notification_channels) == 2])
    error_message = "an alert does not reach everybody"
  }

  # The issue's list: error rate, latency, availability's burn, safety blocks, kill state, outbox lag.
  assert {
    condition = length(setsubtract([
      "GatewayErrors", "RetainSlow", "RetainVerySlow", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly",
      "AvailabilityBurnsFast", "AvailabilityBurnsSlowly", "MessagesBlocked", "FilledTextsBlocked",
      "KillSwitchOn", "KillSwitchBlind", "OutboxStuck", "OutboxLag",
    ], output.alerts)) == 0
    error_message = "an alert is missing"
  }
}
