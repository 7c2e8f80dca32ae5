# Every variable has a default. If it is null, the value of the rendered overlay applies.

variable "kubeconfig" {
  description = "Path of the kubeconfig. The environment variable KUBECONFIG is not read."
  type        = string
  default     = "~/.kube/config"
}

variable "context" {
  description = "Context of the kubeconfig; null is its current context."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace to create, for all objects."
  type        = string
  default     = "dev"
  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace is 1 to 63 lower-case letters, digits and hyphens; it begins and ends with a letter or digit."
  }
}

variable "overlay" {
  description = "Overlay in k8s/overlays: minikube (one node), production (several nodes), zookeeper."
  type        = string
  default     = "minikube"
  validation {
    condition     = contains(["minikube", "production", "zookeeper"], var.overlay)
    error_message = "The overlay is minikube, production or zookeeper."
  }
}

variable "image_registry" {
  description = "Registry and path of lambda-platform and lambda-postgres; \"\" if the nodes have the images."
  type        = string
  default     = null
  validation {
    condition     = !endswith(coalesce(var.image_registry, "-"), "/")
    error_message = "The registry must not end with a slash."
  }
}

variable "image_tag" {
  description = "Tag of lambda-platform. Another tag migrates the schema and rolls the pods."
  type        = string
  default     = null
  validation {
    condition     = var.image_tag == null || (var.image_tag != "latest" && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag)))
    error_message = "The tag must name one version, not latest."
  }
}

variable "postgres_image_tag" {
  description = "Tag of lambda-postgres. Another tag restarts its members, one after the other."
  type        = string
  default     = null
  validation {
    condition     = var.postgres_image_tag == null || (var.postgres_image_tag != "latest" && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.postgres_image_tag)))
    error_message = "The tag must name one version, not latest."
  }
}

variable "producer_replicas" {
  description = "Number of pods of lambda-producer-stream."
  type        = number
  default     = null
  validation {
    condition     = try(var.producer_replicas >= 0 && floor(var.producer_replicas) == var.producer_replicas, true)
    error_message = "The number is a whole number, 0 or more."
  }
}

variable "consumer_replicas" {
  description = "Minimum and maximum number of pods of lambda-consumer. More pods than partitions are idle."
  type        = object({ min = optional(number), max = optional(number) })
  default     = {}
  validation {
    condition     = try(var.consumer_replicas.min >= 1, true) && try(var.consumer_replicas.max >= var.consumer_replicas.min, true)
    error_message = "The numbers must satisfy 1 <= min <= max."
  }
}

variable "storage" {
  description = "Sizes of claims, for example 10Gi. Existing claims do not change."
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
    error_message = "Write sizes as 512Mi, 10Gi or 1Ti."
  }
}

variable "storage_class" {
  description = "Storage class of all claims; null is the cluster's default. Existing claims do not change."
  type        = string
  default     = null
}

variable "batch" {
  description = "When the nightly load runs: a cron expression of five fields, and its time zone."
  type        = object({ schedule = optional(string), time_zone = optional(string) })
  default     = {}
  validation {
    condition     = try(length(split(" ", var.batch.schedule)) == 5, true)
    error_message = "A schedule has five fields, for example 0 0 * * *. Write the time zone into time_zone."
  }
}

variable "pgadmin_node_port" {
  description = "Node port of pgAdmin. The overlay production has none."
  type        = number
  default     = null
  validation {
    condition     = try(var.pgadmin_node_port >= 30000 && var.pgadmin_node_port <= 32767, true)
    error_message = "A node port is between 30000 and 32767."
  }
  validation {
    condition     = var.pgadmin_node_port == null || var.overlay != "production"
    error_message = "The overlay production has no node port for pgAdmin."
  }
}

variable "manage_secrets" {
  description = "Whether Terraform creates the Secrets; false if k8s/secrets or an operator creates them."
  type        = bool
  default     = true
}

variable "secret_revision" {
  description = "Raise it for new passwords of the loaders and the readers. The passwords of PostgreSQL's owner and of pgAdmin's account stay."
  type        = number
  default     = 1
  validation {
    condition     = var.secret_revision >= 1 && floor(var.secret_revision) == var.secret_revision
    error_message = "The revision is a whole number, 1 or more."
  }
}
