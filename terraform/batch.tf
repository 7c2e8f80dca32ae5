# The batch layer: the nightly load and its inbox. Does not wait for the claim, which is bound only
# when a pod uses it.

resource "kubernetes_manifest" "batch" {
  for_each        = module.manifests.tiers.batch
  manifest        = each.value
  computed_fields = module.manifests.computed_fields[each.key]
  field_manager { force_conflicts = true }
  depends_on = [kubernetes_manifest.setup]
}
