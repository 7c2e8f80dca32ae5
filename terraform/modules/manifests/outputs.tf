# Each document is in exactly one of the first three, under its file name.

output "namespace" {
  description = "The namespace, which is applied first."
  value       = one([for document in local.documents : document if document.kind == "Namespace"])
}

output "settings" {
  description = "ConfigMaps of all tiers. Their names change with their content."
  value       = { for name, document in local.documents : name => document if document.kind == "ConfigMap" }
}

output "tiers" {
  description = "All other documents, by tier."
  value = {
    for tier in ["foundation", "core", "setup", "stream", "batch", "admin"] : tier => {
      for name, document in local.documents : name => document
      if document.metadata.labels.tier == tier && !contains(["Namespace", "ConfigMap"], document.kind)
    }
  }
}

output "computed_fields" {
  description = "Fields that the cluster, kubectl and controllers also write, by file name."
  value = { for name, document in local.documents : name => concat(
    ["metadata.labels", "metadata.annotations"],
    # `kubectl rollout restart` writes into the template.
    contains(["Deployment", "StatefulSet"], document.kind) ? ["spec.template.metadata.annotations"] : [],
    # The Job controller adds labels to the template.
    document.kind == "Job" ? ["spec.template.metadata.labels"] : [],
    # An autoscaler sets the number of pods. With every change the provider would send the number
    # from the plan, and fail if it is another one by then. It can ignore only a field that the
    # document has, so it ignores the whole spec. A change of the spec by hand is then no drift.
    document.kind == "Deployment" && !can(document.spec.replicas) ? ["spec"] : [],
  ) }
}

output "images" {
  description = "All images of the pods."
  value       = local.images
}

output "unlisted_images" {
  description = "Images without a registry that no node lists. A node may still have them."
  value       = local.unlisted_images
}
