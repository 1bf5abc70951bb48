output "path" {
  description = "What an image's name begins with: host, project and repository."
  value       = local.path
}

output "attestor" {
  description = "Name of the attestor of tested images."
  value       = google_binary_authorization_attestor.tested.name
}

output "key_version" {
  description = "The version of the key that attestations are signed with."
  value       = data.google_kms_crypto_key_version.images.name
}

output "writers" {
  description = "Who pushes images, under a name for each."
  value       = { for key, binding in google_artifact_registry_repository_iam_member.writers : key => binding.member }
}

output "signers" {
  description = "Who says that an image was tested, under a name for each."
  value       = { for key, binding in google_kms_crypto_key_iam_member.signers : key => binding.member }
}
