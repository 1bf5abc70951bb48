output "names" {
  description = "Names of the secrets."
  value       = { for key, secret in google_secret_manager_secret.this : key => secret.secret_id }
}
