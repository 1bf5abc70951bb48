variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "name" {
  description = "What alerts and the dashboard begin with."
  type        = string
}

variable "alert_emails" {
  description = "Who is told when an alert fires."
  type        = set(string)
}
