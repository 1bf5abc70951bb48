output "names" {
  description = "Names of the secrets."
  value       = { for key, secret in google_secret_manager_secret.this : key => secret.secret_id }
}

output "to_fill" {
  description = "Names of those whose values are added by hand."
  value       = [for key, secret in google_secret_manager_secret.this : secret.secret_id if !contains(keys(var.public_values), key)]
}
