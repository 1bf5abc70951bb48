output "topics" {
  description = "Names of the topics, by what they carry."
  value       = { for key, topic in google_pubsub_topic.this : key => topic.name }
}

output "publishers" {
  description = "Who publishes, by topic and name."
  value       = { for key, binding in google_pubsub_topic_iam_member.publishers : key => binding.member }
}
