variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "The only region that values are stored in."
  type        = string
}

variable "accessors" {
  description = "IAM members who read, by secret and under a name for each."
  type        = map(map(string))
}

variable "public_values" {
  description = "Values that are no secrets and may stand in the state, by secret."
  type        = map(string)
}

variable "deletion_protection" {
  description = "Whether the service refuses to delete the secrets."
  type        = bool
}
