output "namespace" {
  description = "Namespace of the platform."
  value       = var.namespace
}

output "images" {
  description = "All images of the pods."
  value       = module.manifests.images
}

output "pgadmin" {
  description = "How to open pgAdmin, and how to read its account."
  value = join("\n", [
    "kubectl --namespace ${var.namespace} port-forward service/lambda-pgadmin 5050",
    "kubectl --namespace ${var.namespace} get secret pgadmin-config --output go-template='{{range $k, $v := .data}}{{$k}}={{$v | base64decode}}{{\"\\n\"}}{{end}}'",
  ])
}
