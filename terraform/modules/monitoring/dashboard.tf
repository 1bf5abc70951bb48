# What to look at first, two charts a row. The detailed dashboards are Grafana's.

locals {
  charts = [
    { title = "Decisions a second, by mode", query = "sum by (mode) (rate(retain_decisions_total[5m]))" },
    { title = "Baseline, by reason", query = "sum by (baseline_reason) (rate(retain_decisions_total{mode=\"baseline\"}[5m]))" },
    { title = "Callers' requests a second, by status", query = "sum by (code) (rate(gateway_http_requests_total{route=~\"/v1/.+|/retain\"}[5m]))" },
    { title = "Time to answer, p95 in seconds", query = "histogram_quantile(0.95, sum by (le) (rate(gateway_http_request_seconds_bucket{route=~\"/v1/retain|/retain\"}[5m])))" },
    { title = "RPCs a second, by method and code", query = "sum by (method, code) (rate(rpc_requests_total[5m]))" },
    { title = "Contacts that the shield gave up", query = "sum(rate(retain_messages_blocked_total[5m]))" },
    { title = "Texts reviewed a second, by stage and verdict", query = "sum by (stage, verdict) (rate(shield_reviews_total[5m]))" },
    { title = "Contacts a second, by offer", query = "sum by (offer) (rate(retain_contacts_total[5m]))" },
    { title = "Share of the budget that is reserved", query = "max by (campaign) (campaign_reserved_cents) / max by (campaign) (campaign_budget_cents)" },
    { title = "Messages, by source", query = "sum by (source) (rate(generator_messages_total[5m]))" },
    { title = "Kill switch on", query = "max(kill_switch_on)" },
    { title = "Age of the kill switch's state, seconds", query = "max(kill_switch_age_seconds)" },
    { title = "Checkpoints swapped, by kind", query = "sum by (kind) (increase(checkpoint_swaps_total[1h]))" },
    { title = "Checkpoints refused, by kind", query = "sum by (kind) (increase(checkpoints_refused_total[1h]))" },
    { title = "Briefs in the bank", query = "max(generator_bank_briefs)" },
    { title = "Oldest record not yet published, seconds", query = "max(outbox_oldest_seconds)" },
    { title = "Oldest record not yet in the bucket, seconds", query = "max by (subscription_id) (pubsub_googleapis_com:subscription_oldest_unacked_message_age{monitored_resource=\"pubsub_subscription\",subscription_id=~\"decisions|outcomes\"})" },
  ]

  dashboard = jsonencode({
    displayName = var.name
    mosaicLayout = {
      columns = 48
      tiles = [
        for index, chart in local.charts : {
          xPos   = (index % 2) * 24
          yPos   = floor(index / 2) * 16
          width  = 24
          height = 16
          widget = {
            title = chart.title
            xyChart = {
              dataSets = [{ plotType = "LINE", timeSeriesQuery = { prometheusQuery = chart.query } }]
            }
          }
        }
      ]
    }
  })
}
