# Lockstep. `make demo` runs the main job on test clusters of its own, `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
IMAGE   ?= lockstep.test/controller:dev
LINT    := go tool -modfile=tools/go.mod golangci-lint
# The race detector needs a C compiler; without one the tests still run and say so.
RACE    := $(if $(shell command -v gcc || command -v cc),-race,)
# An API server of a test starts and stops beside other packages' tests: 20 seconds, the default, may be too short.
ENVTEST := KUBEBUILDER_CONTROLPLANE_START_TIMEOUT=5m KUBEBUILDER_CONTROLPLANE_STOP_TIMEOUT=5m
# Real clusters need Linux and root.
CLUSTERS := $(shell [ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ] && echo yes)

##@ Use

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build lockstep, the controller and the action's program into bin/.
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cli/lockstep ./controller
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/lockstep-action ./action

.PHONY: demo
demo: ## Deploy, save, lose and restore a shop on two real clusters; proves schema, rows and keys.
ifeq ($(CLUSTERS),yes)
	@$(MAKE) --no-print-directory lab
	@go run ./test/demo
else
	@go run ./test/demo
endif

.PHONY: demo-down
demo-down: ## End every test cluster and the lab.
	$(BIN)/cluster down --all

##@ Test

.PHONY: test
test: ## Run every test: unit, real API server, real clusters.
ifeq ($(CLUSTERS),yes)
	@$(MAKE) --no-print-directory lint test-tools lab test-packages test-stores test-cluster test-e2e
else
	@$(MAKE) --no-print-directory lint build test-packages
	@echo "NOT RUN: the tests on a real API server, on real clusters and on a real S3 server: they need Linux and root"
endif

.PHONY: test-tools
test-tools: # The system's own tools, which tests compare trees with.
	@missing=; for t in rsync:rsync getfattr:attr getfacl:acl getcap:libcap2-bin; do \
		command -v $${t%%:*} >/dev/null || missing="$$missing $${t##*:}"; done; \
	[ -z "$$missing" ] || { echo "installing$$missing"; apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; }

.PHONY: test-packages
test-packages: ## Run the tests of the packages; those on the API server need `make lab` first.
	@[ -n "$(RACE)" ] || echo "no C compiler: running without the race detector"
	KUBEBUILDER_ASSETS="$$([ -x $(BIN)/cluster ] && $(BIN)/cluster assets)" $(ENVTEST) go test $(RACE) -timeout 45m ./action/... ./cli/... ./controller/... ./manifests/... ./pkg/... ./test/argocd/... ./test/bench/... ./test/docs/... ./test/helm/... ./test/lab/... ./test/reader/... ./test/shop/...

.PHONY: test-stores
test-stores: $(BIN)/cluster ## Run the store tests on a real S3 server (Ceph), Object Lock among them.
	$(BIN)/cluster lab up
	eval "$$($(BIN)/cluster lab info -o env)" && LOCKSTEP_TEST_S3=$$AWS_ENDPOINT_URL_S3 go test $(RACE) -count=1 -v -run '^TestReal' ./pkg/store/s3

.PHONY: test-cluster
test-cluster: ## Run the tests of the test cluster itself, csi-sanity among them.
	go -C test/cluster test . ./internal/...
	$(BIN)/cluster sanity

.PHONY: test-e2e
test-e2e: ## Run the end-to-end tests on real clusters.
	go test -v -count=1 -timeout 70m ./test/e2e/...

.PHONY: lab
lab: build image ## Build everything that the real clusters need (minutes the first time).
	$(BIN)/cluster build

$(BIN)/cluster: $(shell find test/cluster -name '*.go' -o -name 'go.*' 2>/dev/null)
	go -C test/cluster build -o $(CURDIR)/$@ ./cmd/cluster

.PHONY: image
image: build $(BIN)/cluster ## Pack the controller's image into bin/image.tar.
	$(BIN)/cluster image pack -o $(BIN)/image.tar -t $(IMAGE) -e /controller controller=$(BIN)/controller bin/lockstep=$(BIN)/lockstep

##@ Develop

.PHONY: generate
generate: ## Regenerate deep copies, CRDs and RBAC.
	go tool controller-gen object paths=./pkg/api/... crd:maxDescLen=400 output:crd:dir=manifests/crd
	go tool controller-gen rbac:roleName=lockstep-controller paths=./controller/... output:rbac:dir=manifests/rbac

.PHONY: fmt
fmt: ## Format the code.
	$(LINT) fmt ./...
	cd test/cluster && gofmt -l -w .

.PHONY: lint
lint: ## Vet and lint, the import directions among them.
	go vet ./...
	go -C test/cluster vet . ./internal/...
	$(LINT) run --allow-parallel-runners ./...

.PHONY: verify
verify: generate fmt lint ## Regenerate, format, vet, lint; fails if that changes anything.
	go mod tidy
	go -C test/cluster mod tidy
	@git diff --exit-code || { echo "the tree is dirty: commit what make verify changed"; exit 1; }
	@untracked="$$(git ls-files --others --exclude-standard)"; [ -z "$$untracked" ] || { echo "untracked: $$untracked"; exit 1; }

.PHONY: bench
bench: ## Run the benchmarks of the packages.
	go test -run '^$$' -bench . -benchmem ./pkg/...

.PHONY: bench-engine
bench-engine: build ## Measure the engine beside restic and kopia (50 minutes; less with BENCH="-only pg -stores local -rounds 2").
	@missing=; for t in psql:postgresql restic:restic zstd:zstd mkfs.ext4:e2fsprogs; do \
		command -v $${t%%:*} >/dev/null || missing="$$missing $${t##*:}"; done; \
		[ -z "$$missing" ] || { echo "installing$$missing"; apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; }
	go run ./test/bench -lockstep $(BIN)/lockstep $(BENCH)

.PHONY: bench-restore
bench-restore: lab ## Measure restores beside kubectl and a plain copy, on a real cluster (BENCH="-volumes 1,4 -objects 200 -rounds 1" is quick).
	go run ./test/benchrestore -v $(BENCH)

.PHONY: bench-scale
bench-scale: build $(BIN)/cluster ## Measure the controller beside 1,000 policies and 10,000 points on a real API server (14 minutes; BENCH="-policies 50 -rest 10s" is quick).
	go run ./test/benchscale $(BENCH)

.PHONY: bench-check
bench-check: build ## Measure `lockstep check --base` on 1,000 applications beside kustomize alone (5 minutes; BENCH="-applications 100 -changed 0,100" is quick).
	go run ./test/benchcheck -lockstep $(BIN)/lockstep $(BENCH)
