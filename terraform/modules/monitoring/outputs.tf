output "alerts" {
  description = "Names of the alerts."
  value       = keys(local.alerts)
}
