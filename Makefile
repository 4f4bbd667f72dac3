# `make run` and `make test` need Python 3.11+, Go and Rust; they set up everything else in folders that git ignores.
# Stamp files in .venv say what is done, so that a second call does only what changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
DEFINITION ?= definitions/unified-pipeline.yaml
INPUTS ?= --input path=. --input max_files=1000

CACHE := $(CURDIR)/.cache
BIN := .venv/bin
STAMPS := .venv/stamps

# What we download and build stays below this folder; a cache that the caller names is used instead.
# CARGO_HOME stays the caller's: the toolchain and its settings live there.
export PIP_CACHE_DIR ?= $(CACHE)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_CACHE_DIR ?= $(CACHE)/uv
export UV_NO_PROGRESS := 1
export GOCACHE ?= $(CACHE)/go-build
export GOMODCACHE ?= $(CACHE)/go-mod
export GOFLAGS := $(strip $(GOFLAGS) -modcacherw -buildvcs=false)
export CARGO_TARGET_DIR := $(CURDIR)/agents/rust/target
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

PACKAGES := . $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml agents/*/pyproject.toml))
PROTOS := $(wildcard protos/noa/agent/v1/*.proto)
RUST_SOURCES := $(shell find agents/rust -name target -prune -o -type f \( -name '*.rs' -o -name 'Cargo.*' \) -print)
RUST_AGENTS := $(BIN)/noa-rust-agent $(BIN)/noa-rust-worker
GO_AGENTS := $(BIN)/noa-go-agent $(BIN)/noa-go-worker
GO_SOURCES := $(shell find agents/go -type f \( -name '*.go' -o -name 'go.*' \) ! -name '*_test.go' -print)

say = @printf '\033[2m» %s\033[0m\n' $(1)
ifeq ($(shell test -t 1 && echo terminal),)
say = @printf '» %s\n' $(1)
endif

.PHONY: help
help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: run
run: setup ## Set up what is missing, then run the unified pipeline on this folder. DEFINITION=, INPUTS= for others.
	@$(BIN)/noa run $(DEFINITION) $(INPUTS)

.PHONY: test
test: setup-dev ## Set up what is missing, then all checks and all tests: Python, Rust, Go. What `.ci/run` runs.
	@$(BIN)/python scripts/steps.py check rust go python

.PHONY: check
check: setup-dev ## Format, lint, types, layers, protos, generated code; no tests.
	@$(BIN)/python scripts/steps.py check

.PHONY: chaos
chaos: setup-dev ## Break things at every step and compare, in the long form (half an hour); prints what was tried.
	@NOA_LONG_TESTS=1 $(BIN)/python -m pytest -q --timeout 3600 tests/chaos

.PHONY: bench
bench: setup-dev ## Measure; each figure beside its limit in the same run. BENCH=--write keeps the table in docs.
	@$(BIN)/python benchmarks/bench.py $(BENCH)

.PHONY: generate
generate: setup-dev ## Make what is generated anew: Python and Go from the protos, docs/cli.md from the commands.
	@$(BIN)/python scripts/generate.py

.PHONY: setup
setup: $(STAMPS)/packages $(RUST_AGENTS) $(GO_AGENTS) ## Everything that `make run` needs.

.PHONY: setup-dev
setup-dev: $(STAMPS)/dev ## Everything that `make test` needs.
	@$(MAKE) --no-print-directory setup

.PHONY: clean
clean: ## Remove what was set up and built. Runs (.noa) stay.
	rm -rf .venv agents/rust/target
	rm -rf .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Python ----------------------------------------------------------------------------------------------------------

# All tools are looked for before anything is downloaded.
$(STAMPS)/python: requirements/bootstrap.txt scripts/check-tools agents/go/go.mod agents/rust/Cargo.toml
	@scripts/check-tools python "$(PYTHON)" && scripts/check-tools go && scripts/check-tools rust
	$(call say,"Python environment in .venv")
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
	@mkdir -p $(@D) && touch $@

# The environment of `make test` has all that `make run` needs: where it is there, `make run` takes nothing away again.
$(STAMPS)/run: requirements/run.txt $(STAMPS)/python
	@scripts/install $(if $(wildcard $(STAMPS)/dev),requirements/dev.txt,$<)
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/python
	@scripts/install requirements/dev.txt
	@touch $@

# Installing the lists above takes our own packages out, so they come after both.
$(STAMPS)/packages: $(PACKAGES:%=%/pyproject.toml) $(STAMPS)/run $(wildcard $(STAMPS)/dev)
	$(call say,"own packages: $(PACKAGES)")
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PACKAGES:%=-e ./%)
	@touch $@

# --- agents ----------------------------------------------------------------------------------------------------------

$(RUST_AGENTS) &: $(RUST_SOURCES) $(PROTOS) | $(STAMPS)/python
	$(call say,"Rust agents (the first build takes some minutes)")
	@cd agents/rust && cargo build --quiet --release --locked $(addprefix --bin ,$(notdir $(RUST_AGENTS)))
	@install -m 755 $(addprefix agents/rust/target/release/,$(notdir $(RUST_AGENTS))) $(BIN)

$(GO_AGENTS): $(GO_SOURCES) | $(STAMPS)/python
	$(call say,"Go agent $(@F)")
	@cd agents/go && go build -trimpath -o ../../$@.new ./cmd/$(@F)
	@mv -f $@.new $@
