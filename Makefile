# The commands of the house. "make" lists them. Every target makes or installs
# what it needs itself, so that each works first on a fresh checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# What a release is called; a tag beats a hash, "dev" is a tree without git.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Narrow the tests: make test-host PKG=./faults/... RUN=TestLoss
# make test-vm KERNELS=debian-6.1,ei-6.12 JOBS=1
PKG ?= ./...
RUN ?=
KERNELS ?=
JOBS ?= 2
# make soak FOR=1h
FOR ?= 10m
# make test-powercut COUNT=50
COUNT ?= 3
# For the scripts behind demo and bench; bench in a guest: KERNEL=debian-6.12
ARGS ?=
KERNEL ?=

# Without cgo the programs and the test binaries are static: they run on any
# distribution and in any guest. Only the race detector asks for cgo.
export CGO_ENABLED := 0

# tools NAME...: a shell assignment that puts those pinned tools on PATH.
tools = PATH="$$(scripts/install-tools $(1)):$$PATH"
matrix = go run ./test/matrix
narrow = -packages '$(PKG)' -run '$(RUN)'

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##@ Build

.PHONY: build
build: ## bin/faultline, static
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/faultline ./cmd/faultline

.PHONY: generate
generate: generate-proto ## write all generated code again: protobuf, BPF objects, the rest
	@# The BPF packages first: a generator that is one of our own programs
	@# may import them.
	@$(call tools,bpf2go); export PATH; \
	scripts/install-deps clang; \
	if [[ -d bpf ]]; then go generate ./bpf/...; fi; \
	go list -f '{{.Dir}}' ./... | grep -v '^$(CURDIR)/bpf/' | \
	  sed 's|^$(CURDIR)|.|' | xargs -r go generate

.PHONY: generate-proto
generate-proto: ## write the Go of api/**/*.proto again
	@$(call tools,buf protoc-gen-go); export PATH; buf generate

.PHONY: check-generate
check-generate: ## fail when generating would change the tree
	@scripts/check-generate

.PHONY: deps
deps: ## install what building and testing need (Debian, Ubuntu; asks for root only to install)
	@scripts/install-deps all
	@if [[ -x test/vm/install ]]; then test/vm/install; fi

.PHONY: install-tools
install-tools: ## build the pinned tools into the cache
	@scripts/install-tools

.PHONY: clean
clean: ## remove what make built here (not the caches outside of the tree)
	@rm -rf bin build

##@ Check

.PHONY: lint
lint: ## go vet, golangci-lint, go.mod, shellcheck, buf lint
	@scripts/lint

.PHONY: vuln
vuln: ## known vulnerabilities (GOVULN_REQUIRED=1 fails when the database is out of reach)
	@$(call tools,govulncheck); export PATH; scripts/vuln

##@ Test

.PHONY: test
test: ## all of it: lint, check-generate, vuln, test-unit, test-host, test-vm, test-powercut
	@scripts/test

.PHONY: test-unit
test-unit: ## tests without privileges, race detector on
	@scripts/install-deps race; CGO_ENABLED=1 go test -race -run '$(RUN)' $(PKG)

.PHONY: test-host
test-host: build ## privileged tests on this machine's kernel (root)
	@scripts/install-deps test; $(matrix) host $(narrow)

.PHONY: test-vm
test-vm: build ## the same test binaries on every kernel of test/vm/kernels.yaml (KERNELS, JOBS)
	@scripts/install-deps test; test/vm/install; \
	$(matrix) vm $(narrow) -kernels '$(KERNELS)' -jobs '$(JOBS)'

.PHONY: test-powercut
test-powercut: ## cut the power of a guest in the middle of faults, COUNT=3 times, and undo what is left (ARGS)
	@test/vm/install; \
	go build -trimpath -ldflags '$(LDFLAGS)' -o build/powercut/ ./cmd/faultline ./test/powercut; \
	build/powercut/powercut -count '$(COUNT)' $(ARGS)

.PHONY: soak
soak: build ## the campaigns in full, for hours: 1,000 kills here and in KERNEL, 50 power cuts, then all tests for FOR=10m (root)
	@KERNEL='$(or $(KERNEL),ei-6.12)' COUNT='$(if $(filter file,$(origin COUNT)),50,$(COUNT))' scripts/soak '$(FOR)'

.PHONY: bench
bench: ## what a fault costs per packet, as ratios of one run (root; KERNEL=debian-6.12 in a guest, ARGS)
	@scripts/install-deps test; $(if $(KERNEL),test/vm/install;) \
	test/bench/run $(if $(KERNEL),--kernel '$(KERNEL)') $(ARGS)

.PHONY: bench-times
bench-times: ## from run to the first packet, from Ctrl-C and kill -9 to the last (root; KERNEL, ARGS)
	@$(MAKE) bench ARGS='--only Times $(ARGS)'

.PHONY: demo
demo: build ## see a service lose packets and get them back, on this machine (root)
	@test/demo/run $(ARGS)
