output "namespace" {
  description = "Where it runs."
  value       = var.namespace
}

output "images" {
  description = "The images that its pods are made from."
  value       = module.manifests.images
}

output "pgadmin" {
  description = "How to open pgAdmin, and how to read its account."
  value = join("\n", [
    "kubectl --namespace ${var.namespace} port-forward service/lambda-pgadmin 5050",
    "kubectl --namespace ${var.namespace} get secret pgadmin-config --output go-template='{{range $k, $v := .data}}{{$k}}={{$v | base64decode}}{{\"\\n\"}}{{end}}'",
  ])
}
