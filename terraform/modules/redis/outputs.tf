locals {
  connections = flatten([
    for endpoint in google_memorystore_instance.this.endpoints : [
      for connection in endpoint.connections : connection.psc_auto_connection
    ]
  ])
  # The other connection is for reads.
  primary = one([for connection in local.connections : connection if connection.connection_type == "CONNECTION_TYPE_PRIMARY"])
}

output "url" {
  description = "Where the primary listens, as redis.url of configs/serve.yaml; rediss is with TLS."
  value       = "rediss://${local.primary.ip_address}:${local.primary.port}/0"
}

output "ca_certificates" {
  description = "Certificates that the server's is to be checked against, in PEM; not secret."
  value = join("\n", flatten([
    for authority in google_memorystore_instance.this.managed_server_ca : [
      for chain in authority.ca_certs : chain.certificates
    ]
  ]))
}

output "authorization" {
  description = "How clients log in."
  value       = google_memorystore_instance.this.authorization_mode
}
