terraform {
  required_version = ">= 1.11, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "8.7.0"
    }
  }

  # The bucket is named by `terraform init -backend-config=bucket=…`: state belongs to whoever runs this.
  backend "gcs" {
    prefix = "churn-saver/dev"
  }
}

provider "google" {
  project = var.project_id
  region  = var.region

  default_labels = {
    app         = "churn-saver"
    environment = "dev"
  }
}
