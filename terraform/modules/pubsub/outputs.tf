output "topics" {
  description = "Names of the topics, by what they carry."
  value       = { for key, topic in google_pubsub_topic.this : key => topic.name }
}
