# The rendered documents, changed by the variables. No provider, so tests run offline.

terraform {
  required_version = ">= 1.11"
}

locals {
  # Keys are file names, Kind-name, which do not depend on the namespace.
  rendered = {
    for path in fileset(var.rendered, "*/*.yaml") :
    trimsuffix(basename(path), ".yaml") => yamldecode(file("${var.rendered}/${path}"))
  }

  # Sizes of claims and of claim templates.
  sizes = {
    "PersistentVolumeClaim-backup-pvc"  = var.storage.backup
    "PersistentVolumeClaim-batch-inbox" = var.storage.inbox
    "PersistentVolumeClaim-pgadmin-pvc" = var.storage.pgadmin
    "StatefulSet-kafka"                 = var.storage.kafka
    "StatefulSet-lambda-postgres"       = var.storage.postgres
  }
  claims = {
    for name in keys(local.rendered) : name => merge(
      var.storage_class == null ? {} : { storageClassName = var.storage_class },
      try(local.sizes[name], null) == null ? {} : { resources = { requests = { storage = local.sizes[name] } } },
    ) if startswith(name, "PersistentVolumeClaim-") || startswith(name, "StatefulSet-")
  }

  # The fields of a spec that variables change; null changes nothing.
  specs = merge(
    { for name, claim in local.claims : name => claim if startswith(name, "PersistentVolumeClaim-") },
    { for name, claim in local.claims : name => {
      volumeClaimTemplates = [
        for template in local.rendered[name].spec.volumeClaimTemplates :
        merge(template, { spec = merge(template.spec, claim) })
      ]
    } if startswith(name, "StatefulSet-") },
    {
      "Deployment-lambda-producer-stream" = {
        for field, value in { replicas = var.producer_replicas } : field => value if value != null
      }
      "HorizontalPodAutoscaler-lambda-consumer" = {
        for field, value in { minReplicas = var.consumer_replicas.min, maxReplicas = var.consumer_replicas.max } :
        field => value if value != null
      }
      "CronJob-csv-batch-cron" = {
        for field, value in { schedule = var.batch.schedule, timeZone = var.batch.time_zone } :
        field => value if value != null
      }
      "Service-lambda-pgadmin" = {
        ports = [
          for port in local.rendered["Service-lambda-pgadmin"].spec.ports :
          merge(port, var.pgadmin_node_port == null ? {} : { nodePort = var.pgadmin_node_port })
        ]
      }
    },
  )

  # A pod reads passwords when it starts, so new passwords restart it. Revision 1 changes nothing:
  # pods that kubectl applied keep running under Terraform.
  restarts = {
    for name, document in local.rendered : name => {
      template = merge(document.spec.template, {
        metadata = merge(document.spec.template.metadata, {
          annotations = merge(
            try(document.spec.template.metadata.annotations, {}),
            { "lambda/secret-revision" = tostring(var.secret_revision) },
          )
        })
      })
    } if var.secret_revision > 1 && document.kind == "Deployment" && length(regexall("\"database-(config|readonly)\"", jsonencode(document))) > 0
  }

  patched = {
    for name, document in local.rendered : name => merge(concat(
      [document],
      [{ metadata = merge(document.metadata, {
        (document.kind == "Namespace" ? "name" : "namespace") = var.namespace
      }) }],
      [for spec in try([document.spec], []) : { spec = merge(spec, try(local.specs[name], {}), try(local.restarts[name], {})) }],
      [for subjects in try([document.subjects], []) : {
        subjects = [for subject in subjects : merge(subject, { namespace = var.namespace })]
      }],
    )...)
  }

  # Replaces images in the text of a document, wherever its pods are. $${1} and $${2} keep the present value.
  registry     = var.image_registry == null ? "$${1}" : var.image_registry == "" ? "" : "${var.image_registry}/"
  platform_tag = var.image_tag == null ? "$${2}" : var.image_tag
  postgres_tag = var.postgres_image_tag == null ? "$${2}" : var.postgres_image_tag
  imaged = {
    for name, document in local.patched : name => jsondecode(
      replace(
        replace(
          jsonencode(document),
          "/\"image\":\"([^\"]*/)?lambda-platform:([^\"]+)\"/", "\"image\":\"${local.registry}lambda-platform:${local.platform_tag}\"",
        ),
        "/\"image\":\"([^\"]*/)?lambda-postgres:([^\"]+)\"/", "\"image\":\"${local.registry}lambda-postgres:${local.postgres_tag}\"",
      )
    )
  }

  # A Deployment's controller counts revisions in an annotation. The provider accepts that only if an
  # annotation of the document changes, too. This one changes whenever the document does.
  documents = {
    for name, document in local.imaged : name => merge(concat([document], [
      for metadata in [document.metadata] : {
        metadata = merge(metadata, {
          annotations = merge(try(metadata.annotations, {}), { "lambda/document" = sha256(jsonencode(document)) })
        })
      } if document.kind == "Deployment"
    ])...)
  }

  images = distinct(flatten([
    for document in local.documents : regexall("\"image\":\"([^\"]+)\"", jsonencode(document))
  ]))

  # A node lists short names with docker.io/library/ before them, and null as the names of an image
  # that another one has replaced.
  listed_images = toset(flatten([for node in var.nodes : [
    for image in flatten([try(node.status.images, [])]) : [
      for name in flatten([try(image.names, [])]) : trimprefix(name, "docker.io/library/") if name != null
    ]
  ]]))
  unlisted_images = [
    for image in local.images : image
    if length(var.nodes) > 0 && startswith(image, "lambda-") && !strcontains(image, "/") && !contains(local.listed_images, image)
  ]
}

# A warning and no error: a node may have an image that it does not list, since it updates its list
# once a minute and lists at most 50 images.
check "images_on_nodes" {
  assert {
    condition     = local.unlisted_images == []
    error_message = <<-EOT
      No node lists ${join(", ", local.unlisted_images)}. A node lists an image up to a minute after it was loaded, and at most 50 images. To see all images that a node has, run "minikube image ls", or "crictl images" on the node. If an image is missing, build and load it (k8s/README.md), or set image_registry to the registry that has it.
    EOT
  }
}
