variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the instance; its nodes stand in several zones."
  type        = string
}

variable "name" {
  description = "Name of the instance."
  type        = string
}

variable "network_id" {
  description = "Full id of the network that the endpoint appears in."
  type        = string
}

variable "subnetwork_id" {
  description = "Full id of the subnetwork that the endpoint's address comes from."
  type        = string
}

variable "node_type" {
  description = "Memorystore's node type."
  type        = string
}

variable "replica_count" {
  description = "Replicas beside the primary."
  type        = number
}

variable "users" {
  description = "IAM members who may connect, under a name for each."
  type        = map(string)
}

variable "deletion_protection" {
  description = "Whether the service refuses to delete the instance."
  type        = bool
}
