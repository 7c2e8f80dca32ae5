# Run in this module's folder: terraform init && terraform test. Needs no network.

variables {
  rendered  = "../../manifests/minikube"
  namespace = "dev"
}

run "every_document_is_in_one_place" {
  assert {
    condition = sort(concat(
      ["Namespace-dev"], keys(output.settings), flatten([for tier in output.tiers : keys(tier)])
    )) == sort([for path in fileset(var.rendered, "*/*.yaml") : trimsuffix(basename(path), ".yaml")])
    error_message = "A rendered document is in no tier, or in two."
  }
  assert {
    condition     = alltrue([for tier in output.tiers : length(tier) > 0])
    error_message = "A tier has no documents."
  }
}

run "what_no_variable_changes_is_as_rendered" {
  assert {
    condition = alltrue([
      for path in fileset(var.rendered, "{core,setup,stream,batch,admin}/*.yaml") :
      jsonencode(yamldecode(file("${var.rendered}/${path}"))) == jsonencode(merge(
        output.settings, output.tiers[dirname(path)])[trimsuffix(basename(path), ".yaml")]
      ) if !strcontains(path, "Deployment-")
    ])
    error_message = "A document differs from its rendering without a variable."
  }
  assert {
    condition = alltrue([
      for path in fileset(var.rendered, "{stream,admin}/Deployment-*.yaml") :
      jsonencode(yamldecode(file("${var.rendered}/${path}")).spec) ==
      jsonencode(output.tiers[dirname(path)][trimsuffix(basename(path), ".yaml")].spec)
    ])
    error_message = "A Deployment differs from its rendering without a variable."
  }
}

run "deployments_say_when_they_change" {
  variables {
    image_tag = "1.2.3"
  }
  assert {
    condition = alltrue([
      for name in ["lambda-consumer", "lambda-producer-stream"] :
      output.tiers.stream["Deployment-${name}"].metadata.annotations["lambda/document"] !=
      run.what_no_variable_changes_is_as_rendered.tiers.stream["Deployment-${name}"].metadata.annotations["lambda/document"]
    ])
    error_message = "Another image leaves the annotation unchanged."
  }
  assert {
    condition = (
      output.tiers.admin["Deployment-lambda-pgadmin"] ==
      run.what_no_variable_changes_is_as_rendered.tiers.admin["Deployment-lambda-pgadmin"]
    )
    error_message = "pgAdmin's image is not ours, but its Deployment changes."
  }
  assert {
    condition     = [for name, fields in output.computed_fields : name if contains(fields, "spec")] == ["Deployment-lambda-consumer"]
    error_message = "Only the spec of the autoscaler's Deployment may be ignored."
  }
}

run "each_variable_changes_its_fields" {
  variables {
    namespace          = "dev2"
    image_registry     = "registry.example.com/team"
    image_tag          = "1.2.3"
    postgres_image_tag = "17-4"
    producer_replicas  = 5
    consumer_replicas  = { min = 2, max = 4 }
    storage            = { kafka = "7Gi", postgres = "8Gi", inbox = "9Gi" }
    storage_class      = "fast"
    batch              = { schedule = "30 1 * * *", time_zone = "Europe/Berlin" }
    pgadmin_node_port  = 30051
    secret_revision    = 7
  }
  assert {
    condition     = output.namespace.metadata.name == "dev2" && !can(output.namespace.metadata.namespace)
    error_message = "The Namespace object has another name."
  }
  assert {
    condition = alltrue([
      for document in concat(values(output.settings), flatten([for tier in output.tiers : values(tier)])) :
      document.metadata.namespace == "dev2"
    ])
    error_message = "A document is in another namespace."
  }
  assert {
    condition     = alltrue([for it in output.tiers.core["RoleBinding-lambda-postgres"].subjects : it.namespace == "dev2"])
    error_message = "The RoleBinding names an account in another namespace."
  }
  assert {
    condition = sort(output.images) == sort([
      "apache/kafka:4.3.1", "dpage/pgadmin4:9",
      "registry.example.com/team/lambda-platform:1.2.3", "registry.example.com/team/lambda-postgres:17-4",
    ])
    error_message = "Images: ${join(", ", output.images)}"
  }
  assert {
    condition = alltrue([
      for name, document in output.settings :
      document.data == yamldecode(file("${var.rendered}/${document.metadata.labels.tier}/${name}.yaml")).data
    ])
    error_message = "Settings changed with the images."
  }
  assert {
    condition     = output.tiers.stream["Deployment-lambda-producer-stream"].spec.replicas == 5
    error_message = "There are not 5 producers."
  }
  assert {
    condition     = !can(output.tiers.stream["Deployment-lambda-consumer"].spec.replicas)
    error_message = "Only the autoscaler may set the number of consumers."
  }
  assert {
    condition = (
      output.tiers.stream["HorizontalPodAutoscaler-lambda-consumer"].spec.minReplicas == 2 &&
      output.tiers.stream["HorizontalPodAutoscaler-lambda-consumer"].spec.maxReplicas == 4
    )
    error_message = "The autoscaler has other bounds."
  }
  assert {
    condition = [
      for name in ["StatefulSet-kafka", "StatefulSet-lambda-postgres"] :
      [for it in output.tiers.core[name].spec.volumeClaimTemplates : [it.spec.resources.requests.storage, it.spec.storageClassName]]
    ] == [[["7Gi", "fast"]], [["8Gi", "fast"]]]
    error_message = "Claim templates have another size or class."
  }
  assert {
    condition = (
      output.tiers.batch["PersistentVolumeClaim-batch-inbox"].spec.resources.requests.storage == "9Gi" &&
      output.tiers.core["PersistentVolumeClaim-backup-pvc"].spec.resources.requests.storage == "5Gi" &&
      output.tiers.core["PersistentVolumeClaim-backup-pvc"].spec.storageClassName == "fast"
    )
    error_message = "Claims have another size or class."
  }
  assert {
    condition = (
      output.tiers.batch["CronJob-csv-batch-cron"].spec.schedule == "30 1 * * *" &&
      output.tiers.batch["CronJob-csv-batch-cron"].spec.timeZone == "Europe/Berlin" &&
      output.tiers.core["CronJob-postgres-backup"].spec.schedule == "0 3 * * *"
    )
    error_message = "The nightly load or the backup runs at another time."
  }
  assert {
    condition     = output.tiers.admin["Service-lambda-pgadmin"].spec.ports[0].nodePort == 30051
    error_message = "pgAdmin has another node port."
  }
  assert {
    condition = [
      for name in ["lambda-consumer", "lambda-producer-stream"] :
      try(output.tiers.stream["Deployment-${name}"].spec.template.metadata.annotations["lambda/secret-revision"], "none")
    ] == ["7", "none"]
    error_message = "Exactly the pods that use a password must restart."
  }
  assert {
    condition     = output.tiers.stream["Deployment-lambda-consumer"].spec.template.metadata.annotations["prometheus.io/port"] == "9464"
    error_message = "An annotation was lost."
  }
}

run "an_image_that_no_node_lists_is_a_warning" {
  variables {
    image_tag = "1.2.3"
    nodes = [
      { status = { images = [{ names = ["docker.io/library/lambda-platform:dev", "lambda-postgres:dev"] }, { names = null }] } },
      { status = { images = null } },
    ]
  }
  expect_failures = [check.images_on_nodes]
  assert {
    condition     = output.unlisted_images == ["lambda-platform:1.2.3"]
    error_message = "Unlisted: ${join(", ", output.unlisted_images)}"
  }
}

run "a_node_that_lists_only_fifty_images_is_a_warning" {
  variables {
    nodes = [{ status = { images = [for number in range(50) : { names = ["other:${number}"] }] } }]
  }
  expect_failures = [check.images_on_nodes]
  assert {
    condition     = output.unlisted_images == ["lambda-platform:dev", "lambda-postgres:dev"]
    error_message = "Unlisted: ${join(", ", output.unlisted_images)}"
  }
}

run "listed_images_give_no_warning" {
  variables {
    nodes = [{ status = { images = [{ names = ["docker.io/library/lambda-platform:dev"] }, { names = ["lambda-postgres:dev"] }] } }]
  }
  assert {
    condition     = output.unlisted_images == []
    error_message = "Unlisted: ${join(", ", output.unlisted_images)}"
  }
}

run "images_of_a_registry_give_no_warning" {
  variables {
    image_registry = "registry.example.com/team"
    nodes          = [{ status = { images = [] } }]
  }
  assert {
    condition     = output.unlisted_images == []
    error_message = "Unlisted: ${join(", ", output.unlisted_images)}"
  }
}

run "images_of_the_nodes" {
  variables {
    rendered       = "../../manifests/production"
    image_registry = ""
  }
  assert {
    condition     = alltrue([for image in output.images : startswith(image, "lambda-") || !strcontains(image, "lambda-")])
    error_message = "Images: ${join(", ", output.images)}"
  }
}

run "every_document_of_production_is_in_one_place" {
  variables {
    rendered = "../../manifests/production"
  }
  assert {
    condition = sort(concat(
      ["Namespace-dev"], keys(output.settings), flatten([for tier in output.tiers : keys(tier)])
    )) == sort([for path in fileset(var.rendered, "*/*.yaml") : trimsuffix(basename(path), ".yaml")])
    error_message = "A rendered document is in no tier, or in two."
  }
}

run "every_document_of_zookeeper_is_in_one_place" {
  variables {
    rendered = "../../manifests/zookeeper"
  }
  assert {
    condition = sort(concat(
      ["Namespace-dev"], keys(output.settings), flatten([for tier in output.tiers : keys(tier)])
    )) == sort([for path in fileset(var.rendered, "*/*.yaml") : trimsuffix(basename(path), ".yaml")])
    error_message = "A rendered document is in no tier, or in two."
  }
}
