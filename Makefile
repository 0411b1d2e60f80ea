# Everything runs in .venv, made from requirements.lock: exact versions, held against their hashes.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# Engines find `python` and `dvc` here; torch's threads are a parameter of the suite.
export PATH := $(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
# Each stage is a process of its own: with nothing compiled, half of what DVC and torch take to start is Python's compiler.
unexport PYTHONDONTWRITEBYTECODE

# Snakemake keeps a cache in the home folder, and cannot do without.
ifneq ($(shell test -n "$$XDG_CACHE_HOME" -o -w "$$HOME" || echo no),)
export XDG_CACHE_HOME := $(CURDIR)/.scratch/cache
$(info the home folder $(HOME) cannot be written to: caches go to $(XDG_CACHE_HOME))
endif

.DEFAULT_GOAL := help
.PHONY: help setup repro ablations bench gpu test test-all lint format lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.complete ## make the environment in .venv (a minute, 6 GB)

$(VENV)/.complete: requirements.lock requirements-uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "backtrail needs Python 3.11, 3.12 or 3.13; `$(PYTHON) --version` was found: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" "$(BIN)/uv" pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" "$(BIN)/uv" pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup ## run the built-in suite: both papers' figures and tables, on Fashion-MNIST, in reports/
	@snakemake --profile local --no-hooks  # `reproduced` names the report
	@backtrail reproduced --page reproduced.html || { code=$$?; test $$code -eq 6 || test $$code -eq 7 || exit $$code; }  # see its --help

bench: setup ## measure the methods' speed and memory here (four minutes); tables in reports/benchmark
	python benchmarks/bench.py

gpu: setup ## check and measure a GPU that is at hand (a quarter of an hour; go on by calling it again); tables in reports/gpu
	python benchmarks/gpu.py $(GPU)

ablations: setup ## run suites/ablations: one figure per axis (what each choice does)
	@cd suites/ablations && python -m backtrail pipeline
	@snakemake -d suites/ablations --profile local $$(cd suites/ablations && dvc stage list --name-only | grep -E '^figure-(sampler-)?axis@')

# In two processes, in the order of the folders: what takes longest, and waits for Slurm, starts first.
PYTEST := python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

test: setup lint ## check style and pass the tests
	$(PYTEST) -m "not slow"

test-all: setup lint ## the tests, with those that `make test` has no time for
	$(PYTEST)

lint: setup ## check style
	ruff check .
	ruff format --check .
	snakefmt --check workflow

format: setup ## mend style
	ruff check --fix .
	ruff format .
	snakefmt workflow

lock: setup ## renew requirements.lock from pyproject.toml, for Python 3.11 to 3.13
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade --output-file requirements.lock
	grep '^uv==' requirements.lock | cut -d' ' -f1 | uv pip compile - --universal --generate-hashes --no-emit-index-url --no-header --output-file requirements-uv.lock

clean: ## drop the environment and the resume states; results and cache stay
	rm -rf $(VENV) .scratch .snakemake
