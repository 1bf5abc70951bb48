variable "project_id" {
  description = "Google Cloud project; buckets' names begin with it, for they are unique in the world."
  type        = string
}

variable "region" {
  description = "Region of the buckets."
  type        = string
}

variable "name" {
  description = "Second part of the buckets' names."
  type        = string
}

variable "retention_days" {
  description = "Age at which access logs and records of decisions are deleted."
  type        = number
}

variable "force_destroy" {
  description = "Whether a bucket may be destroyed with what is in it."
  type        = bool
}

variable "models_readers" {
  description = "IAM members who fetch checkpoints, under a name for each."
  type        = map(string)
}

variable "models_writers" {
  description = "IAM members who publish checkpoints, under a name for each."
  type        = map(string)
}

variable "data_readers" {
  description = "IAM members who read data to train on, which is all but records/, deploy/ and builds/, under a name for each."
  type        = map(string)
}

variable "builders" {
  description = "IAM members who read deploy/ and write builds/ in the data bucket, under a name for each."
  type        = map(string)
}
