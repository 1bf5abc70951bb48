output "network" {
  description = "Name of the network."
  value       = google_compute_network.this.name
}

output "network_id" {
  description = "Full id of the network."
  value       = google_compute_network.this.id
}

output "subnetwork" {
  description = "Name of the nodes' subnetwork."
  value       = google_compute_subnetwork.nodes.name
}

output "endpoints_subnetwork_id" {
  description = "Full id of the subnetwork that private endpoints take their addresses from."
  value       = google_compute_subnetwork.endpoints.id
}

output "pods_range_name" {
  description = "Name of the pods' range in the nodes' subnetwork."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[0].range_name
}

output "services_range_name" {
  description = "Name of the services' range in the nodes' subnetwork."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[1].range_name
}

output "ranges" {
  description = "The ranges of nodes, pods, services, endpoints and proxies; the chart's network policies name them."
  value       = local.ranges
}
