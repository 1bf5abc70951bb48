# ../../variables.tf checks what is given.

variable "project_id" {
  description = "Google Cloud project that holds this environment and nothing else."
  type        = string
}

variable "region" {
  description = "Region of everything."
  type        = string
  default     = "europe-west1"
}

variable "alert_emails" {
  description = "Who is told when an alert fires."
  type        = set(string)
}

variable "allowed_images" {
  description = "Images that may run beside those of our own repository, as Binary Authorization patterns."
  type        = set(string)
  default     = []
}
