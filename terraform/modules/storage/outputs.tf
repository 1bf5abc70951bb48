output "buckets" {
  description = "Names of the buckets data, models and logs."
  value = {
    data   = google_storage_bucket.this["data"].name
    models = google_storage_bucket.this["models"].name
    logs   = google_storage_bucket.logs.name
  }
}
