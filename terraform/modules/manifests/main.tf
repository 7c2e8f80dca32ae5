# The rendered documents, with what the variables change. No provider: tested offline.

terraform {
  required_version = ">= 1.11"
}

locals {
  # By the file's name, Kind-name: it stays, whatever the namespace.
  rendered = {
    for path in fileset(var.rendered, "*/*.yaml") :
    trimsuffix(basename(path), ".yaml") => yamldecode(file("${var.rendered}/${path}"))
  }

  # Sizes of claims, and of the templates of claims.
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

  # What a variable changes in the spec of one document; a null changes nothing.
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

  # Passwords reach a pod when it starts. The first ones change nothing: pods that kubectl applied
  # go on under Terraform.
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

  # Images are named in pods wherever these are: by text. $${1} and $${2}: what is there.
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

  # A Deployment's controller counts revisions in an annotation. The provider allows for that only
  # where an annotation of the document changes too: this one does whenever anything does.
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

  # A node tells of 50 images at most, of short names with docker.io/library/ before them, and null
  # for the names of an image that another has replaced.
  on_nodes = [for node in var.nodes : [
    for image in flatten([try(node.status.images, [])]) : [
      for name in flatten([try(image.names, [])]) : trimprefix(name, "docker.io/library/") if name != null
    ]
  ]]
}
