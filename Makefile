# Every target sets up what it needs: a virtual environment with the versions of requirements.lock.
# Where packages come from is a matter of the machine: pip's and uv's own settings apply.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# A recipe that was stopped must not leave a half-made target behind.
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup
DEMO := runs/demo
CONFIGS := demo
# The first Python that is there, runs and is supported by all dependencies.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)

# Nothing is installed in editable form: the code is found as it is on a cluster, by path.
export PYTHONPATH := platform
# Ray would otherwise write a token into the home folder, and the next cluster would ask for it.
export RAY_AUTH_MODE := disabled

.PHONY: help setup test test-slow test-gpu lint format cluster-check bench demo demo-full demo-language ablations ui clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(SETUP) ## make .venv from requirements.lock (no time when that is done)

# The stamp holds the lock that was installed: an older or newer checkout of it is noticed whatever its time.
$(SETUP): requirements.lock
	@if ! cmp -s requirements.lock $(SETUP); then \
		test -n "$(PYTHON)" || { echo "setup: needs Python 3.11 or 3.12 on the PATH, found none"; exit 1; }; \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
		VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock; \
		cp requirements.lock $(SETUP); \
	fi; touch $(SETUP)

test: $(SETUP) ## the layers' contracts and all tests but the slow ones
	$(BIN)/lint-imports --no-logo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --no-loadscope-reorder

test-slow: $(SETUP) ## the proofs that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 1800

test-gpu: $(SETUP) ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu tests

lint: $(SETUP) ## ruff, mypy and the layers' contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(SETUP) ## put the code into its form
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

cluster-check: $(SETUP) ## what starts clusters: launcher configs by Ray and a stand-in for AWS, manifests, Dockerfile (a minute)
	$(BIN)/hadolint cluster/Dockerfile
	bash -n cluster/kubernetes/secrets.sh
	bash -n cluster/serve_mlflow.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit/cluster

bench: $(SETUP) ## every benchmark, baseline and ours in one run (BENCH_FLAGS=--quick: under a minute each)
	@for file in $$(find tests/benchmarks -name '*.py' ! -name '_*' | sort); do \
		echo "== $$file"; $(BIN)/python $$file $(BENCH_FLAGS); done

demo: $(SETUP) ## corpus, fit_tokenizer, tokenize, align, pretrain, sft, decoder, evaluate on a Ray cluster of this machine: about ten minutes on 2 cores
# (CONFIGS=smoke: the whole way in two minutes, learning nothing)
	@exec $(BIN)/python -m cslm.apps.demo --output.path $(DEMO) --configs $(CONFIGS) --stop_with_parent true

demo-full: $(SETUP) ## the same, longer, with more to ask: about an hour on 2 cores
	@exec $(BIN)/python -m cslm.apps.demo --output.path $(DEMO)-full --configs demo-full --stop_with_parent true

demo-language: $(SETUP) ## a fourth language joins a model of three: refused when poisoned or forgetful, else promoted
	@exec $(BIN)/python -m cslm.apps.demo_language --output.path $(DEMO)-language --stop_with_parent true

ablations: $(SETUP) ## the demo's recipe with one thing changed at a time, after make demo: about half an hour on 2 cores
	@exec $(BIN)/python -m cslm.apps.ablations --demo.path $(DEMO) --demo.configs $(CONFIGS) --stop_with_parent true

ui: $(SETUP) ## MLflow's pages on the demo's runs, on this machine only (DEMO=folder, PORT=number)
	@test -f $(DEMO)/mlflow.db || { echo "ui: no runs in $(DEMO); make demo first"; exit 1; }
	exec $(BIN)/mlflow ui --backend-store-uri sqlite:///$(abspath $(DEMO))/mlflow.db --host 127.0.0.1 --port $(or $(PORT),5000)

clean: ## remove what builds, tests and the demo made; .venv stays
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find platform jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
