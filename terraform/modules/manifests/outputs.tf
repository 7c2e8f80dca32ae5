# One of these holds each document, by its file's name.

output "namespace" {
  description = "The namespace, before everything else."
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
  description = "What the cluster, kubectl and controllers write into a document beside us, by its file's name."
  value = { for name, document in local.documents : name => concat(
    ["metadata.labels", "metadata.annotations"],
    # kubectl writes a restart into the template.
    contains(["Deployment", "StatefulSet"], document.kind) ? ["spec.template.metadata.annotations"] : [],
    # The Job's controller puts labels on the template.
    document.kind == "Job" ? ["spec.template.metadata.labels"] : [],
    # An autoscaler sets the number of pods. The provider would send the number that the plan saw
    # with every change, and fail where another is there by then. It lets go only of a field that
    # the document has, so of all the spec; to change that by hand is then no drift.
    document.kind == "Deployment" && !can(document.spec.replicas) ? ["spec"] : [],
  ) }
}

output "images" {
  description = "Every image that a pod names."
  value       = local.images
}

output "missing_images" {
  description = "Images without a registry that no node has, as far as the nodes tell of all that they have."
  value = [
    for image in local.images : image
    if !strcontains(image, "/") && startswith(image, "lambda-") && !contains(flatten(local.on_nodes), image) &&
    alltrue([for images in local.on_nodes : length(images) < 50])
  ]
}
