# Who is who. Nobody has a key: pods are known by their Kubernetes service account, builds by Cloud Build. Rights to
# one bucket, topic, secret or repository are given where that is made; here are only those of the whole project.

locals {
  accounts = {
    app_runtime = { id = "app-runtime", description = "Services: read checkpoints, exchange events, use the ledger." }
    trainer     = { id = "trainer", description = "Trainers' Jobs: read data, sign and publish checkpoints." }
    ci_builder  = { id = "ci-builder", description = "Cloud Build: builds and pushes images, deploys the chart." }
    nodes       = { id = "gke-nodes", description = "Nodes of the cluster: logs, metrics, pulling images." }
  }

  project_roles = {
    ci_builder = [
      "roles/container.developer", # helm; nothing finer lets it write to the cluster without RBAC inside of it
      "roles/logging.logWriter",
    ]
    nodes = ["roles/container.defaultNodeServiceAccount"]
  }

  project_grants = merge([
    for account, roles in local.project_roles : { for role in roles : "${account}/${role}" => { account = account, role = role } }
  ]...)

  kubernetes_accounts = merge([
    for account, names in { app_runtime = var.runtime, trainer = var.trainer } : {
      for name in names : "${account}/${name}" => { account = account, name = name }
    }
  ]...)
}

resource "google_service_account" "this" {
  for_each = local.accounts

  project      = var.project_id
  account_id   = each.value.id
  display_name = each.value.id
  description  = each.value.description
}

resource "google_project_iam_member" "this" {
  for_each = local.project_grants

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.this[each.value.account].member
}

resource "google_service_account_iam_member" "workload_identity" {
  for_each = local.kubernetes_accounts

  service_account_id = google_service_account.this[each.value.account].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.workload_pool}[${var.namespace}/${each.value.name}]"
}
