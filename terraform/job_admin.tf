# The Jobs that set up schema, roles and topic, and pgAdmin.

# A Job cannot be changed: another document or other passwords replace it.
resource "terraform_data" "setup" {
  for_each         = module.manifests.tiers.setup
  triggers_replace = [jsonencode(each.value), var.secret_revision]
}

resource "kubernetes_manifest" "setup" {
  for_each        = module.manifests.tiers.setup
  manifest        = each.value
  computed_fields = module.manifests.computed_fields[each.key]
  field_manager { force_conflicts = true }
  wait {
    condition {
      type   = "Complete"
      status = "True"
    }
  }
  # Longer than the Jobs' own deadline of 15 minutes: the provider does not notice a failed Job.
  timeouts { create = "16m" }
  depends_on = [kubernetes_manifest.core]
  lifecycle { replace_triggered_by = [terraform_data.setup[each.key]] }
}

resource "kubernetes_manifest" "admin" {
  for_each        = module.manifests.tiers.admin
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
