variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "workload_pool" {
  description = "The cluster's workload identity pool; it is there once the cluster is."
  type        = string
}

variable "namespace" {
  description = "Namespace of the Kubernetes service accounts."
  type        = string
}

variable "runtime" {
  description = "Kubernetes service accounts that are app-runtime."
  type        = set(string)
}

variable "trainer" {
  description = "Kubernetes service accounts that are trainer."
  type        = set(string)
}
