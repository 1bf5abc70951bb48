variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of subnetworks and NAT."
  type        = string
}

variable "name" {
  description = "Name of the network; others begin with it."
  type        = string
}

variable "cidr" {
  description = "Block that all ranges are cut from."
  type        = string
}
