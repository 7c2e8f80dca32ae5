# Each has a default: nothing is asked for. Where it is null, k8s/ decides, as the overlay was
# rendered.

variable "kubeconfig" {
  description = "Path of the kubeconfig. The environment's KUBECONFIG is not read."
  type        = string
  default     = "~/.kube/config"
}

variable "context" {
  description = "Context of the kubeconfig; its current one, if null."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace that is made, with everything in it."
  type        = string
  default     = "dev"
  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace is 1 to 63 lower-case letters, digits and hyphens; it begins and ends with a letter or digit."
  }
}

variable "overlay" {
  description = "Which of k8s/overlays: minikube (one node), production (several), zookeeper."
  type        = string
  default     = "minikube"
  validation {
    condition     = contains(["minikube", "production", "zookeeper"], var.overlay)
    error_message = "There are the overlays minikube, production and zookeeper."
  }
}

variable "image_registry" {
  description = "Registry and path before lambda-platform and lambda-postgres; \"\" for images that the nodes have already."
  type        = string
  default     = null
  validation {
    condition     = !endswith(coalesce(var.image_registry, "-"), "/")
    error_message = "Without a slash at its end."
  }
}

variable "image_tag" {
  description = "Tag of lambda-platform. Another one migrates the schema and rolls the pods."
  type        = string
  default     = null
  validation {
    condition     = var.image_tag == null || (var.image_tag != "latest" && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag)))
    error_message = "A tag that names one version, and not latest."
  }
}

variable "postgres_image_tag" {
  description = "Tag of lambda-postgres. Another one restarts its members, one after the other."
  type        = string
  default     = null
  validation {
    condition     = var.postgres_image_tag == null || (var.postgres_image_tag != "latest" && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.postgres_image_tag)))
    error_message = "A tag that names one version, and not latest."
  }
}

variable "producer_replicas" {
  description = "Pods of lambda-producer-stream."
  type        = number
  default     = null
  validation {
    condition     = try(var.producer_replicas >= 0 && floor(var.producer_replicas) == var.producer_replicas, true)
    error_message = "A whole number, 0 or more."
  }
}

variable "consumer_replicas" {
  description = "Between how many pods of lambda-consumer the autoscaler chooses; more than the topic has partitions do nothing."
  type        = object({ min = optional(number), max = optional(number) })
  default     = {}
  validation {
    condition     = try(var.consumer_replicas.min >= 1, true) && try(var.consumer_replicas.max >= var.consumer_replicas.min, true)
    error_message = "1 <= min <= max."
  }
}

variable "storage" {
  description = "Sizes of claims, as 10Gi. For new claims only: one that exists does not change."
  type = object({
    kafka    = optional(string)
    postgres = optional(string)
    backup   = optional(string)
    inbox    = optional(string)
    pgadmin  = optional(string)
  })
  default = {}
  validation {
    condition     = alltrue([for size in values(var.storage) : can(regex("^[1-9][0-9]*[MGT]i$", size)) if size != null])
    error_message = "Sizes are written as 512Mi, 10Gi, 1Ti."
  }
}

variable "storage_class" {
  description = "Storage class of all claims; the cluster's default, if null. For new claims only."
  type        = string
  default     = null
}

variable "batch" {
  description = "When the nightly load runs: a cron expression of five fields, and the time zone that it is in."
  type        = object({ schedule = optional(string), time_zone = optional(string) })
  default     = {}
  validation {
    condition     = try(length(split(" ", var.batch.schedule)) == 5, true)
    error_message = "A schedule has five fields, as 0 0 * * *; the time zone goes into time_zone."
  }
}

variable "pgadmin_node_port" {
  description = "Node port of pgAdmin; in the overlay production there is none."
  type        = number
  default     = null
  validation {
    condition     = try(var.pgadmin_node_port >= 30000 && var.pgadmin_node_port <= 32767, true)
    error_message = "A node port is 30000 to 32767."
  }
  validation {
    condition     = var.pgadmin_node_port == null || var.overlay != "production"
    error_message = "The overlay production gives pgAdmin no node port."
  }
}

variable "manage_secrets" {
  description = "Whether the Secrets are made here; false where k8s/secrets or an operator makes them."
  type        = bool
  default     = true
}

variable "secret_revision" {
  description = "Raise it to have new passwords for the loaders and the readers. Those of PostgreSQL's owner and of pgAdmin's account stay."
  type        = number
  default     = 1
  validation {
    condition     = var.secret_revision >= 1 && floor(var.secret_revision) == var.secret_revision
    error_message = "A whole number, 1 or more."
  }
}
