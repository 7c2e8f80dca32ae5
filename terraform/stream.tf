# The speed layer, after schema and topic exist.

resource "kubernetes_manifest" "stream" {
  for_each        = module.manifests.tiers.stream
  manifest        = each.value
  computed_fields = module.manifests.computed_fields[each.key]
  field_manager { force_conflicts = true }
  dynamic "wait" {
    for_each = each.value.kind == "Deployment" ? [true] : []
    content { rollout = true }
  }
  timeouts {
    create = "10m"
    update = "10m"
  }
  depends_on = [kubernetes_manifest.setup]
}
