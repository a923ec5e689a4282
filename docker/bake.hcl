# For docker buildx:  docker buildx bake --file docker/bake.hcl [TARGET]
#
# cpu is the default; cuda, multi-platform (x86-64 and arm64) and reproducible are the others, check builds the smoke
# test. Always with --file: without it, bake would merge compose.yaml into this.

variable "VERSION" {
  default = "0.1.0"
}

variable "NAME" {
  default = "llm-appliance"
}

variable "BASE_IMAGE" {
  default = "debian:bookworm-slim@sha256:4724b8cc51e33e398f0e2e15e18d5ec2851ff0c2280647e1310bc1642182655d"
}

# Names in models.lock, separated by spaces; empty: the first.
variable "MODELS" {
  default = ""
}

# Turing to Blackwell; the last one also as PTX, which the driver compiles for what comes later.
variable "CUDA_ARCHITECTURES" {
  default = "75-real;80-real;86-real;89-real;90-real;100-real;120"
}

# Seconds since 1970: the time of every file that a build adds.
variable "SOURCE_DATE_EPOCH" {
  default = "1767225600"
}

variable "APT_MIRROR" {
  default = ""
}

variable "APT_SECURITY_MIRROR" {
  default = ""
}

variable "PIP_INDEX_URL" {
  default = ""
}

variable "TORCH_INDEX_URL" {
  default = ""
}

variable "HF_ENDPOINT" {
  default = ""
}

group "default" {
  targets = ["cpu"]
}

target "_common" {
  context    = "."
  dockerfile = "docker/Dockerfile"
  args = {
    BASE_IMAGE          = BASE_IMAGE
    MODELS              = MODELS
    SOURCE_DATE_EPOCH   = SOURCE_DATE_EPOCH
    APT_MIRROR          = APT_MIRROR
    APT_SECURITY_MIRROR = APT_SECURITY_MIRROR
    PIP_INDEX_URL       = PIP_INDEX_URL
    TORCH_INDEX_URL     = TORCH_INDEX_URL
    HF_ENDPOINT         = HF_ENDPOINT
  }
  # Secrets that are not there are not given.
  secret = ["id=hf_token,env=HF_TOKEN"]
}

target "cpu" {
  inherits = ["_common"]
  target   = "runtime-cpu"
  tags     = ["${NAME}:${VERSION}-cpu"]
  output   = ["type=docker"]
}

target "cuda" {
  inherits = ["_common"]
  target   = "runtime-cuda"
  tags     = ["${NAME}:${VERSION}-cuda"]
  output   = ["type=docker"]
  args = {
    CUDA_ARCHITECTURES = CUDA_ARCHITECTURES
  }
}

target "multi-platform" {
  inherits  = ["_common"]
  target    = "runtime-cpu"
  tags      = ["${NAME}:${VERSION}-cpu"]
  platforms = ["linux/amd64", "linux/arm64"]
  output    = ["type=oci,dest=dist/${NAME}-${VERSION}-cpu.oci.tar"]
}

# Times in layers and image are SOURCE_DATE_EPOCH. For packages that don't change either, let APT_MIRROR be a snapshot.
target "reproducible" {
  inherits = ["cpu"]
  output   = ["type=oci,dest=dist/${NAME}-${VERSION}-cpu.oci.tar,rewrite-timestamp=true"]
}

target "check" {
  inherits = ["_common"]
  target   = "test"
  output   = ["type=cacheonly"]
}
