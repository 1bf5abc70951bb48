variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the cluster; it has nodes in three of its zones."
  type        = string
}

variable "name" {
  description = "Name of the cluster."
  type        = string
}

variable "network" {
  description = "Name of the network."
  type        = string
}

variable "subnetwork" {
  description = "Name of the nodes' subnetwork."
  type        = string
}

variable "pods_range_name" {
  description = "Name of the pods' secondary range."
  type        = string
}

variable "services_range_name" {
  description = "Name of the services' secondary range."
  type        = string
}

variable "node_service_account" {
  description = "E-mail of the account that nodes run as."
  type        = string
}

variable "release_channel" {
  description = "RAPID, REGULAR, STABLE or EXTENDED."
  type        = string
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the cluster."
  type        = bool
}
