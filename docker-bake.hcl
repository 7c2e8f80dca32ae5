# docker buildx bake              both images, for this machine
# REGISTRY=registry.example.com/ VERSION=0.1.0 docker buildx bake --push
variable "REGISTRY" { default = "" }
variable "VERSION" { default = "dev" }
variable "REVISION" { default = "unknown" }
# The base images. Add digests (…@sha256:…) to pin them.
variable "RUNTIME" { default = "gcr.io/distroless/cc-debian13:nonroot" }
variable "POSTGRES" { default = "postgres:17" }

group "default" {
  targets = ["lambda-platform", "lambda-postgres"]
}

target "lambda-platform" {
  tags = ["${REGISTRY}lambda-platform:${VERSION}"]
  args = { VERSION = VERSION, REVISION = REVISION, RUNTIME = RUNTIME }
}

target "lambda-postgres" {
  context = "k8s/images/lambda-postgres"
  tags    = ["${REGISTRY}lambda-postgres:${VERSION}"]
  args    = { VERSION = VERSION, REVISION = REVISION, POSTGRES = POSTGRES }
}
