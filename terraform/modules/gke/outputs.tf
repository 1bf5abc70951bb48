output "name" {
  description = "Name of the cluster."
  value       = google_container_cluster.this.name
}

output "location" {
  description = "Region of the cluster."
  value       = google_container_cluster.this.location
}

output "workload_pool" {
  description = "The pool that Kubernetes service accounts are members of; there only once the cluster is."
  value       = "${google_container_cluster.this.project}.svc.id.goog"
}
