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

output "images" {
  description = "Every image that a pod names."
  value       = distinct(flatten([for document in local.documents : regexall("\"image\":\"([^\"]+)\"", jsonencode(document))]))
}
