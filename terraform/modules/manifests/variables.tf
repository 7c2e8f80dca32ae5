variable "rendered" {
  description = "Folder of one overlay's rendering, as k8s/render writes it: a folder a tier, a file a document."
  type        = string
}

variable "namespace" {
  description = "Namespace that all of it goes to, in place of the rendering's own."
  type        = string
}

# null, here as below: what the rendering says.
variable "image_registry" {
  description = "Registry and path before the names of the platform's two images; empty for images that the nodes have."
  type        = string
  default     = null
}

variable "image_tag" {
  description = "Tag of lambda-platform."
  type        = string
  default     = null
}

variable "postgres_image_tag" {
  description = "Tag of lambda-postgres."
  type        = string
  default     = null
}

variable "producer_replicas" {
  description = "Pods of lambda-producer-stream."
  type        = number
  default     = null
}

variable "consumer_replicas" {
  description = "Between how many pods of lambda-consumer the autoscaler chooses."
  type        = object({ min = optional(number), max = optional(number) })
  default     = {}
}

variable "storage" {
  description = "Sizes of claims. A claim that exists does not change."
  type = object({
    kafka    = optional(string)
    postgres = optional(string)
    backup   = optional(string)
    inbox    = optional(string)
    pgadmin  = optional(string)
  })
  default = {}
}

variable "storage_class" {
  description = "Storage class of all claims. A claim that exists does not change."
  type        = string
  default     = null
}

variable "batch" {
  description = "When the nightly load runs: a cron expression, and the time zone that it is in."
  type        = object({ schedule = optional(string), time_zone = optional(string) })
  default     = {}
}

variable "pgadmin_node_port" {
  description = "Node port of pgAdmin, where the rendering has one."
  type        = number
  default     = null
}

variable "secret_revision" {
  description = "Revision of the passwords: pods that use them start anew when it changes."
  type        = number
  default     = 1
}

variable "nodes" {
  description = "The cluster's nodes, as it tells them, each with the images that it has."
  type        = any
  default     = []
}
