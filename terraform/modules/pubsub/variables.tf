variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "project_number" {
  description = "Its number, which names Pub/Sub's service agent."
  type        = string
}

variable "region" {
  description = "The only region that messages are stored in."
  type        = string
}

variable "records_bucket" {
  description = "Name of the bucket that decisions and outcomes are written to, under records/."
  type        = string
}

variable "publishers" {
  description = "IAM members who publish, by topic and under a name for each."
  type        = map(map(string))
}

variable "followers" {
  description = "IAM members who listen to checkpoint-events, under a name for each."
  type        = map(string)
}
