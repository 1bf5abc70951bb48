# Alerts, a dashboard and who hears of it. The rules are written as Prometheus rules, so that promtool can check them.

locals {
  groups = {
    services = yamldecode(file("${path.module}/rules/services.yaml")).groups
    cloud    = yamldecode(file("${path.module}/rules/cloud.yaml")).groups
  }

  alerts = merge(flatten([
    for source, groups in local.groups : [
      for group in groups : { for rule in group.rules : rule.alert => merge(rule, { source = source, group = group.name }) }
    ]
  ])...)

  channels = [for channel in google_monitoring_notification_channel.email : channel.id]
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  project      = var.project_id
  display_name = each.key
  type         = "email"
  labels       = { email_address = each.key }
}

resource "google_monitoring_alert_policy" "rule" {
  for_each = local.alerts

  project               = var.project_id
  display_name          = "${var.name}: ${each.key}"
  combiner              = "OR"
  severity              = each.value.labels.severity
  notification_channels = local.channels

  conditions {
    display_name = each.value.annotations.summary

    condition_prometheus_query_language {
      query               = trimspace(each.value.expr)
      duration            = each.value.for
      evaluation_interval = "60s"
      rule_group          = each.value.group
      alert_rule          = each.key
      # The services' metrics are unknown until the first pod was scraped; Google's own are always known.
      disable_metric_validation = each.value.source == "services"
    }
  }

  documentation {
    subject   = "${var.name}: ${each.value.annotations.summary}"
    content   = "${each.value.annotations.summary}\n\n${each.value.annotations.action}\n\nRunbook: ${each.value.annotations.runbook}"
    mime_type = "text/markdown"
  }

  alert_strategy {
    auto_close = "86400s"
  }
}

resource "google_monitoring_dashboard" "this" {
  project        = var.project_id
  dashboard_json = local.dashboard
}
