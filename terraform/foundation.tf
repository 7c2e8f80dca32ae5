# The documents, the namespace with its limits and policies, the settings and the Secrets.

module "manifests" {
  source             = "./modules/manifests"
  rendered           = "${path.module}/manifests/${var.overlay}"
  namespace          = var.namespace
  image_registry     = var.image_registry
  image_tag          = var.image_tag
  postgres_image_tag = var.postgres_image_tag
  producer_replicas  = var.producer_replicas
  consumer_replicas  = var.consumer_replicas
  storage            = var.storage
  storage_class      = var.storage_class
  batch              = var.batch
  pgadmin_node_port  = var.pgadmin_node_port
  secret_revision    = var.secret_revision
  nodes              = data.kubernetes_resources.nodes.objects
}

data "kubernetes_resources" "nodes" {
  api_version = "v1"
  kind        = "Node"
}

resource "kubernetes_manifest" "namespace" {
  manifest        = module.manifests.namespace
  computed_fields = module.manifests.computed_fields["Namespace-dev"]
  field_manager { force_conflicts = true }
  timeouts { delete = "10m" }
}

# A ConfigMap's name changes with its content. The new one is created before pods switch to it,
# and the old one is deleted afterwards.
resource "kubernetes_manifest" "settings" {
  for_each        = module.manifests.settings
  manifest        = each.value
  computed_fields = module.manifests.computed_fields[each.key]
  field_manager { force_conflicts = true }
  depends_on = [kubernetes_manifest.namespace]
  lifecycle { create_before_destroy = true }
}

resource "kubernetes_manifest" "foundation" {
  for_each        = module.manifests.tiers.foundation
  manifest        = each.value
  computed_fields = module.manifests.computed_fields[each.key]
  field_manager { force_conflicts = true }
  depends_on = [kubernetes_manifest.namespace]
}

# Passwords are generated while they are written. They are in no state and no plan.
locals {
  passwords = {
    database-admin = {
      data = {
        DB_USER              = "postgres"
        DB_PASSWORD          = replace(uuid(), "-", "")
        REPLICATION_USER     = "replicator"
        REPLICATION_PASSWORD = replace(uuid(), "-", "")
      }
      revision = 1
    }
    database-config = {
      data     = { DB_USER = "lambda_loader", DB_PASSWORD = replace(uuid(), "-", "") }
      revision = var.secret_revision
    }
    database-readonly = {
      data     = { DB_USER = "lambda_reader", DB_PASSWORD = replace(uuid(), "-", "") }
      revision = var.secret_revision
    }
    pgadmin-config = {
      data = {
        PGADMIN_DEFAULT_EMAIL    = "admin@example.com"
        PGADMIN_DEFAULT_PASSWORD = replace(uuid(), "-", "")
      }
      revision = 1
    }
    # A Kafka cluster id is 16 bytes in base64.
    kafka-cluster = {
      data     = { CLUSTER_ID = trimsuffix(base64encode(substr(replace(uuid(), "-", ""), 0, 16)), "==") }
      revision = 1
    }
  }
}

resource "kubernetes_secret_v1" "secret" {
  for_each = toset([
    for name in ["database-admin", "database-config", "database-readonly", "pgadmin-config", "kafka-cluster"] :
    name if var.manage_secrets
  ])
  metadata {
    name      = each.key
    namespace = var.namespace
    labels    = { "app.kubernetes.io/part-of" = "lambda" }
  }
  data_wo          = local.passwords[each.key].data
  data_wo_revision = local.passwords[each.key].revision
  depends_on       = [kubernetes_manifest.namespace]
}
