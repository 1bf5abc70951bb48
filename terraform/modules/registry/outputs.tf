output "path" {
  description = "What an image's name begins with: host, project and repository."
  value       = local.path
}
