# PostgreSQL and Kafka. An apply goes on when they are ready.

resource "kubernetes_manifest" "core" {
  for_each = module.manifests.tiers.core
  manifest = each.value
  # A restart by kubectl is written into the template.
  computed_fields = concat(local.computed_fields, each.value.kind == "StatefulSet" ? local.restarts : [])
  field_manager { force_conflicts = true }
  dynamic "wait" {
    for_each = each.value.kind == "StatefulSet" ? [true] : []
    content { rollout = true }
  }
  timeouts {
    create = "10m"
    update = "10m"
  }
  depends_on = [
    kubernetes_manifest.settings,
    kubernetes_manifest.foundation,
    kubernetes_secret_v1.secret,
  ]
}
