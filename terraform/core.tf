# PostgreSQL and Kafka. The apply continues when they are ready.

resource "kubernetes_manifest" "core" {
  for_each        = module.manifests.tiers.core
  manifest        = each.value
  computed_fields = module.manifests.computed_fields[each.key]
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
