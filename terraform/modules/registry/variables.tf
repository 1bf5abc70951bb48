variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the repository."
  type        = string
}

variable "name" {
  description = "Name of the repository."
  type        = string
}

variable "readers" {
  description = "IAM members who pull, under a name for each."
  type        = map(string)
}

variable "writers" {
  description = "IAM members who push, under a name for each."
  type        = map(string)
}

variable "signers" {
  description = "IAM members who say that an image was tested, under a name for each."
  type        = map(string)
}

variable "allowed" {
  description = "Patterns of other images that may run."
  type        = set(string)
}

variable "enforce" {
  description = "Whether other images are blocked; otherwise they are only reported in the audit log."
  type        = bool
}
