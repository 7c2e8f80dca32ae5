variable "rendered" {
  description = "Folder with one overlay as k8s/render writes it: one folder per tier, one file per document."
  type        = string
}

variable "namespace" {
  description = "Namespace of all objects, instead of the one in the rendering."
  type        = string
}

# Here and below, null keeps the value of the rendering.
variable "image_registry" {
  description = "Registry and path of the platform's two images; empty if the nodes have the images."
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
  description = "Number of pods of lambda-producer-stream."
  type        = number
  default     = null
}

variable "consumer_replicas" {
  description = "Minimum and maximum number of pods of lambda-consumer, between which the autoscaler chooses."
  type        = object({ min = optional(number), max = optional(number) })
  default     = {}
}

variable "storage" {
  description = "Sizes of claims. Existing claims do not change."
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
  description = "Storage class of all claims. Existing claims do not change."
  type        = string
  default     = null
}

variable "batch" {
  description = "When the nightly load runs: a cron expression and its time zone."
  type        = object({ schedule = optional(string), time_zone = optional(string) })
  default     = {}
}

variable "pgadmin_node_port" {
  description = "Node port of pgAdmin, if the rendering has one."
  type        = number
  default     = null
}

variable "secret_revision" {
  description = "Revision of the passwords. When it changes, pods that use them restart."
  type        = number
  default     = 1
}

variable "nodes" {
  description = "The cluster's Node objects, whose status lists the images on each node. If empty, images are not checked."
  type        = any
  default     = []
}
