# The verbs of Tidegate. `make` alone lists them; each sets up what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
CONTROL := .venv/control/bin
WORKER := .venv/worker/bin

.PHONY: help
help: ## List the verbs
	@awk 'BEGIN {FS = ":.*## "; print "usage: make VERB\n"} \
	  /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Make both environments and install the Debian packages that are missing
	@scripts/setup

.PHONY: setup-control
setup-control:
	@scripts/setup control

.PHONY: test
test: ## Lint, types, walls and every quick test; says what was skipped and why
	@scripts/test quick

.PHONY: smoke
smoke: ## Five end-to-end scenarios on real Airflow, Prometheus and memory limits
	@scripts/test smoke

.PHONY: e2e
e2e: ## Conformance and every end-to-end scenario; on a cluster with KUBECONFIG=file IMAGE=name HOST_ADDRESS=ip
	@scripts/test e2e

.PHONY: soak
soak: ## The long kill runs
	@scripts/test soak

.PHONY: demo
demo: ## A run from trigger to numbers, shown live: SCENARIO=leak|large|oom|cap|manifest, KEEP=1 leaves the stack up, STACK=compose
	@scripts/setup $(if $(filter compose,$(STACK)),control worker) >&2
	@$(CONTROL)/python -m tidegate_local demo $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(KEEP),--keep) $(if $(STACK),--stack $(STACK))

.PHONY: up
up: setup ## Start or heal the whole stack on this machine and say where it is
	@$(CONTROL)/python -m tidegate_local up

.PHONY: down
down: setup-control ## End exactly what the stack started; its state stays for the next start
	@$(CONTROL)/python -m tidegate_local down

.PHONY: status
status: setup-control ## Which parts of the stack serve
	@$(CONTROL)/python -m tidegate_local status

.PHONY: logs
logs: setup-control ## The ends of the stack's logs; SERVICE=name follows one
	@$(CONTROL)/python -m tidegate_local logs $(if $(SERVICE),$(SERVICE) --follow)

.PHONY: compose-env
compose-env: ## Add to .env what docker-compose.yaml wants and .env lacks, passwords too
	@scripts/compose-env

.PHONY: lint
lint: setup ## Ruff, mypy and the import walls, changing nothing
	@scripts/lint

.PHONY: fmt
fmt: setup-control ## Format the code and mend what ruff can mend
	@$(CONTROL)/ruff check --fix --quiet . ; $(CONTROL)/ruff format --quiet .

.PHONY: lock
lock: ## Recompile the locks after a dependency changed
	@scripts/lock

.PHONY: bench-breaker
bench-breaker: setup-control ## Trip policies against a corpus of memory traces (TRACES=dir replays your own)
	@$(CONTROL)/python -m bench.breaker $(if $(TRACES),--traces $(TRACES))

.PHONY: bench-sizing
bench-sizing: setup-control ## Sizing policies against a history of runs (TRACE=file replays your own)
	@$(CONTROL)/python -m bench.sizing $(if $(TRACE),--trace $(TRACE))

.PHONY: bench-ingest
bench-ingest: setup ## The worker's images/s and memory against the seed's loader (ARGS="--quick", "--questions", ...)
	@$(CONTROL)/python -m bench.ingest $(ARGS)

.PHONY: bench-recovery
bench-recovery: setup ## How soon a trip is decided, what remedies interrupt, what the breaker costs
	@$(CONTROL)/python -m bench.recovery

.PHONY: chart
chart: setup-control ## Lint the Helm chart, render its scenarios into dist/chart, package it into dist
	@$(CONTROL)/python -m helm.chart

.PHONY: image
image: ## Build the worker image: IMAGE=name BASE_IMAGE=name FLAVOR=cuda|cpu BUILDER=docker|podman|buildah
	@scripts/image worker

.PHONY: airflow-image
airflow-image: ## Build the image of Airflow with the DAGs and the control plane: IMAGE=name BASE_IMAGE=name
	@scripts/image airflow

.PHONY: test-image
test-image: ## Build both images on a small Debian and run the worker in them, under the limits of a pod
	@scripts/test image
