SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 0
# tool NAMES: the directory of the pinned tools, after building those.
with-tools = PATH="$$(scripts/install-tools $(1)):$$PATH"

.PHONY: generate-proto
generate-proto: ## Go from api/**/*.proto
	export $(call with-tools,buf protoc-gen-go); buf generate
