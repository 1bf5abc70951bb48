# The door: what a person sets is checked here, before anything is planned. The modules trust what comes through.

variable "project_id" {
  description = "Google Cloud project that holds this environment and nothing else."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id: \"${var.project_id}\" is no project id (6 to 30 lower-case letters, digits and hyphens, a letter first); take the PROJECT_ID that `gcloud projects list` shows."
  }
}

variable "environment" {
  description = "Which environment this is; prod is protected against deletion and blocks foreign images."
  type        = string

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "environment: \"${var.environment}\" is not known; use dev or prod."
  }
}

variable "region" {
  description = "Region of everything: cluster, buckets, Redis, messages and secrets."
  type        = string
  default     = "europe-west1"

  validation {
    # The API would refuse a wrong one only after a quarter of the environment is made.
    condition = contains([
      "africa-south1",
      "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3",
      "asia-south1", "asia-south2", "asia-southeast1", "asia-southeast2",
      "australia-southeast1", "australia-southeast2",
      "europe-central2", "europe-north1", "europe-north2", "europe-southwest1",
      "europe-west1", "europe-west2", "europe-west3", "europe-west4", "europe-west6",
      "europe-west8", "europe-west9", "europe-west10", "europe-west12",
      "me-central1", "me-central2", "me-west1",
      "northamerica-northeast1", "northamerica-northeast2", "northamerica-south1",
      "southamerica-east1", "southamerica-west1",
      "us-central1", "us-east1", "us-east4", "us-east5", "us-south1",
      "us-west1", "us-west2", "us-west3", "us-west4",
    ], var.region)
    error_message = "region: \"${var.region}\" is no region; take one that `gcloud compute regions list` shows, such as europe-west1 (a zone such as europe-west1-b is none)."
  }
}

variable "alert_emails" {
  description = "Who is told when an alert fires."
  type        = set(string)

  validation {
    condition     = length(var.alert_emails) > 0
    error_message = "alert_emails: is empty, so nobody would hear an alert; name at least one address."
  }

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:].]+$", email))])
    error_message = "alert_emails: ${join(", ", [for email in var.alert_emails : email if !can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:].]+$", email))])} is no e-mail address; write name@example.com."
  }
}

variable "network_cidr" {
  description = "Private block for nodes, pods, services and endpoints; must not overlap with what it is peered with."
  type        = string
  default     = "10.64.0.0/14"

  validation {
    condition     = can(cidrhost(var.network_cidr, 0)) && try(cidrhost(var.network_cidr, 0) == split("/", var.network_cidr)[0], false)
    error_message = "network_cidr: \"${var.network_cidr}\" is no block of IPv4 addresses; write its first address and its length, such as 10.64.0.0/14."
  }

  validation {
    condition     = try(tonumber(split("/", var.network_cidr)[1]), 14) >= 10 && try(tonumber(split("/", var.network_cidr)[1]), 14) <= 16
    error_message = "network_cidr: \"${var.network_cidr}\" has the wrong size for nodes, pods and services; give it a length from /10 to /16."
  }

  validation {
    condition     = can(regex("^(10[.]|172[.](1[6-9]|2[0-9]|3[01])[.]|192[.]168[.]|100[.](6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])[.])", var.network_cidr))
    error_message = "network_cidr: \"${var.network_cidr}\" is not private; take one in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10."
  }
}

variable "release_channel" {
  description = "How soon the cluster gets new versions of Kubernetes."
  type        = string
  default     = "REGULAR"

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "release_channel: \"${var.release_channel}\" is not known; use RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "redis" {
  description = "Size of the contact ledger. A replica takes over within seconds when a node dies."
  type = object({
    node_type     = optional(string, "SHARED_CORE_NANO")
    replica_count = optional(number, 0)
  })
  default = {}

  validation {
    condition     = contains(["SHARED_CORE_NANO", "STANDARD_SMALL", "HIGHMEM_MEDIUM", "HIGHMEM_XLARGE"], var.redis.node_type)
    error_message = "redis.node_type: \"${var.redis.node_type}\" is not known; use SHARED_CORE_NANO (1.4 GB), STANDARD_SMALL (6.5 GB), HIGHMEM_MEDIUM (13 GB) or HIGHMEM_XLARGE (58 GB)."
  }

  validation {
    condition     = contains(range(0, 6), var.redis.replica_count)
    error_message = "redis.replica_count: ${var.redis.replica_count} is out of range; use a whole number from 0 to 5."
  }

  validation {
    condition     = var.environment != "prod" || (var.redis.replica_count >= 1 && var.redis.node_type != "SHARED_CORE_NANO")
    error_message = "redis: in prod the ledger needs a replica and a node type with a service level; set replica_count to 1 or more and node_type to STANDARD_SMALL or larger."
  }
}

variable "record_days" {
  description = "How long decisions and access logs are kept; outcomes stay, for they hold the opt-outs; gateway.record_days of configs/serve.yaml says the same for Redis."
  type        = number
  default     = 400

  validation {
    condition     = var.record_days == floor(var.record_days) && var.record_days >= 30 && var.record_days <= 3650
    error_message = "record_days: ${var.record_days} is out of range; use whole days from 30 to 3650."
  }
}

variable "namespace" {
  description = "Kubernetes namespace that the chart is installed into; Workload Identity trusts its service accounts only."
  type        = string
  default     = "churn-saver"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace)) && !contains(["default", "kube-system", "kube-public"], var.namespace)
    error_message = "namespace: \"${var.namespace}\" will not do; use a namespace of its own, in lower-case letters, digits and hyphens, such as churn-saver."
  }
}

variable "allowed_images" {
  description = "Images that may run beside those of our own repository, as Binary Authorization patterns."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for pattern in var.allowed_images : can(regex("^[a-z0-9.-]+[.][a-z]+(/[A-Za-z0-9._*@:-]+){2,}$", pattern))])
    error_message = "allowed_images: each names a host and at least two parts of a path, such as registry.example.com/operators/*; less would let in what anybody pushes there."
  }
}

variable "promoted_by" {
  description = "The account whose builds may ask for a release here: output ci_builder of the environment before this one."
  type        = string
  default     = null

  validation {
    condition     = var.promoted_by == null || can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]{4,28}[a-z0-9][.]iam[.]gserviceaccount[.]com$", var.promoted_by))
    error_message = "promoted_by: \"${var.promoted_by == null ? "" : var.promoted_by}\" is no service account; take what `terraform output ci_builder` shows in environments/dev."
  }
}
