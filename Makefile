# Every command sets itself up: it needs python3 >= 3.11 with venv, make and git, nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DISTRIBUTIONS := -e . -e include/engine -e include/localcloud -e include/edge

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# uv comes first, hash-checked by pip: it installs the set in seconds where pip takes minutes.
$(STAMP): constraints.txt constraints-bootstrap.txt pyproject.toml $(wildcard include/*/pyproject.toml)
	@$(PYTHON) stack/python_version.py
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-bootstrap.txt
	@echo "installing the pinned packages into $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r constraints.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(DISTRIBUTIONS)
	@touch $@

setup: $(STAMP) ## create .venv with the pinned packages

demo: $(STAMP) ## run the main job once, end to end, and write build/demo
	@exec $(BIN)/python -m stack demo

up: $(STAMP) ## keep the stack up; prints URLs and logins
	@exec $(BIN)/python -m stack up

down: $(STAMP) ## stop what `make up` started
	@exec $(BIN)/python -m stack down

test: $(STAMP) ## unit, contract, dags and integration tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile \
		tests/integration tests/contract tests/unit tests/dags

e2e: $(STAMP) ## the main job and the browser tests
	@$(BIN)/python -m pytest tests/e2e

lint: $(STAMP) ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## benchmarks into build/bench (BENCH=name for one)
	@$(BIN)/python -m benchmarks $(BENCH)

constraints: $(STAMP) ## resolve requirements-dev.in into constraints.txt
	@$(BIN)/uv pip compile requirements-dev.in --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --quiet -o constraints.txt

.PHONY: help setup demo up down test e2e lint bench constraints
