output "emails" {
  description = "E-mails of the accounts app_runtime, trainer, ci_builder and nodes."
  value       = { for key, account in google_service_account.this : key => account.email }
}

output "members" {
  description = "The same as IAM members."
  value       = { for key, account in google_service_account.this : key => account.member }
}

output "workload_identities" {
  description = "The pods that act as each account, as IAM members."
  value       = { for key, binding in google_service_account_iam_member.workload_identity : key => binding.member }
}
