# A VPC in which nothing has a public address: nodes go out through NAT, Redis comes in over a private endpoint, and
# callers over an internal load balancer.

locals {
  # Parts of the block that cannot overlap: the upper half for pods, of which there are most.
  ranges = {
    nodes     = cidrsubnet(var.cidr, 6, 0)
    services  = cidrsubnet(var.cidr, 6, 1)
    endpoints = cidrsubnet(var.cidr, 6, 2)
    proxies   = cidrsubnet(var.cidr, 6, 3)
    pods      = cidrsubnet(var.cidr, 1, 1)
  }
}

resource "google_compute_network" "this" {
  project                 = var.project_id
  name                    = var.name
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"
}

resource "google_compute_subnetwork" "nodes" {
  project                  = var.project_id
  name                     = "${var.name}-nodes"
  region                   = var.region
  network                  = google_compute_network.this.id
  ip_cidr_range            = local.ranges.nodes
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = local.ranges.pods
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = local.ranges.services
  }

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_subnetwork" "endpoints" {
  project                  = var.project_id
  name                     = "${var.name}-endpoints"
  region                   = var.region
  network                  = google_compute_network.this.id
  ip_cidr_range            = local.ranges.endpoints
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# Where the internal load balancer of the chart's Gateway (gke-l7-rilb) calls the pods from.
resource "google_compute_subnetwork" "proxies" {
  project       = var.project_id
  name          = "${var.name}-proxies"
  region        = var.region
  network       = google_compute_network.this.id
  ip_cidr_range = local.ranges.proxies
  purpose       = "REGIONAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

# A VPC denies what comes in anyway, but silently; this says what was tried. GKE's own rules come before it.
resource "google_compute_firewall" "deny_ingress" {
  project       = var.project_id
  name          = "${var.name}-deny-ingress"
  network       = google_compute_network.this.id
  direction     = "INGRESS"
  priority      = 65000
  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }

  log_config {
    metadata = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_router" "this" {
  project = var.project_id
  name    = var.name
  region  = var.region
  network = google_compute_network.this.id
}

resource "google_compute_router_nat" "this" {
  project                            = var.project_id
  name                               = var.name
  region                             = var.region
  router                             = google_compute_router.this.name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}
