# Each wrong value is refused before anything is planned, by the variable that it is given to.

mock_provider "google" {}

variables {
  project_id   = "example-project"
  environment  = "dev"
  alert_emails = ["on-call@example.com"]
}

run "project_id_with_capitals" {
  command = plan

  variables {
    project_id = "My_Project"
  }

  expect_failures = [var.project_id]
}

run "project_id_too_short" {
  command = plan

  variables {
    project_id = "app"
  }

  expect_failures = [var.project_id]
}

run "project_number_for_an_id" {
  command = plan

  variables {
    project_id = "123456789012"
  }

  expect_failures = [var.project_id]
}

run "unknown_environment" {
  command = plan

  variables {
    environment = "production"
  }

  expect_failures = [var.environment]
}

run "zone_for_a_region" {
  command = plan

  variables {
    region = "europe-west1-b"
  }

  expect_failures = [var.region]
}

run "misspelt_region" {
  command = plan

  variables {
    region = "europe-west99"
  }

  expect_failures = [var.region]
}

run "nobody_to_alert" {
  command = plan

  variables {
    alert_emails = []
  }

  expect_failures = [var.alert_emails]
}

run "alert_to_no_address" {
  command = plan

  variables {
    alert_emails = ["on-call"]
  }

  expect_failures = [var.alert_emails]
}

run "no_network" {
  command = plan

  variables {
    network_cidr = "10.64.0.0"
  }

  expect_failures = [var.network_cidr]
}

run "network_with_host_bits" {
  command = plan

  variables {
    network_cidr = "10.64.0.1/14"
  }

  expect_failures = [var.network_cidr]
}

run "network_too_small" {
  command = plan

  variables {
    network_cidr = "10.64.0.0/20"
  }

  expect_failures = [var.network_cidr]
}

run "public_network" {
  command = plan

  variables {
    network_cidr = "8.0.0.0/14"
  }

  expect_failures = [var.network_cidr]
}

run "unknown_release_channel" {
  command = plan

  variables {
    release_channel = "stable"
  }

  expect_failures = [var.release_channel]
}

run "unknown_redis_node" {
  command = plan

  variables {
    redis = { node_type = "HUGE" }
  }

  expect_failures = [var.redis]
}

run "negative_replicas" {
  command = plan

  variables {
    redis = { replica_count = -1 }
  }

  expect_failures = [var.redis]
}

run "half_a_replica" {
  command = plan

  variables {
    redis = { replica_count = 1.5 }
  }

  expect_failures = [var.redis]
}

run "prod_without_replica" {
  command = plan

  variables {
    environment = "prod"
    redis       = { node_type = "STANDARD_SMALL", replica_count = 0 }
  }

  expect_failures = [var.redis]
}

run "prod_on_a_shared_core" {
  command = plan

  variables {
    environment = "prod"
    redis       = { replica_count = 1 }
  }

  expect_failures = [var.redis]
}

run "records_gone_in_a_day" {
  command = plan

  variables {
    record_days = 1
  }

  expect_failures = [var.record_days]
}

run "part_of_a_day" {
  command = plan

  variables {
    record_days = 30.5
  }

  expect_failures = [var.record_days]
}

run "namespace_of_everybody" {
  command = plan

  variables {
    namespace = "default"
  }

  expect_failures = [var.namespace]
}

run "no_namespace_name" {
  command = plan

  variables {
    namespace = "Churn Saver"
  }

  expect_failures = [var.namespace]
}

run "images_of_a_whole_host" {
  command = plan

  variables {
    allowed_images = ["registry.example.com/*"]
  }

  expect_failures = [var.allowed_images]
}

run "promoted_by_a_person" {
  command = plan

  variables {
    promoted_by = "somebody@example.com"
  }

  expect_failures = [var.promoted_by]
}
