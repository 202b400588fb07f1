# hatoba: `make` lists what there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
JOBS   ?= auto
N      ?= 20000
SEED   ?= 1
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint format check reference image wheels big fuzz abuse faults load kubernetes-tools clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.tests ## make .venv with everything hatoba and its tests need

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/.serve: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "hatoba needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.tests: $(VENV)/.serve requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	@touch $@

serve: $(VENV)/.serve ## run the registry on 127.0.0.1:5000 with its data in ./hatoba-data
	@exec $(BIN)/hatoba serve $(ARGS)

test: $(VENV)/.tests ## run all tests this machine can, JOBS=auto at a time; REQUIRE_ALL=1 makes a skip a failure
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

lint: $(VENV)/.tests ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.tests ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## what CI runs

reference: $(VENV)/.serve ## write docs/reference from the code
	$(BIN)/python -m hatoba.cli.reference docs/reference

image: $(if $(OFFLINE),wheels) ## build hatoba:latest with Docker; BASE=IMAGE with Python to build upon; OFFLINE=1: as `make wheels` says
	docker build --tag hatoba:latest --file deploy/Dockerfile $(if $(BASE),--build-arg BASE=$(BASE)) \
	  --label org.opencontainers.image.version=$(VERSION) $(if $(OFFLINE),--build-arg PIP_NO_INDEX=1) $(ARGS) .

wheels: $(VENV)/.serve ## put into dist/wheels what the image installs, for a BASE with this machine's Python version
	rm -rf dist/wheels
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --constraint constraints.txt --wheel-dir dist/wheels \
	  hatchling .

big: $(VENV)/.tests ## push and pull a 5 GiB blob, with memory figures (minutes, 15 GiB of disk)
	$(BIN)/python tests/e2e/big.py $(ARGS)

faults: N = 200

fuzz: $(VENV)/.tests ## send N=20000 requests, most of them wrong, to a real server and judge each answer; SEED=1
	PYTHONPATH=tests $(BIN)/python -m fuzz -n $(N) --seed $(SEED) $(ARGS)

abuse: $(VENV)/.tests ## vanishing, lying and flooding clients, and what the server takes up before and after (minutes)
	PYTHONPATH=tests $(BIN)/python -m abuse $(ARGS)

faults: $(VENV)/.tests ## N=200 registries that lose power, are killed or have a failing disk, and what is left; SEED=1
	PYTHONPATH=tests $(BIN)/python -m faults -n $(N) --seed $(SEED) $(ARGS)

load: $(VENV)/.tests ## 64 clients push and 256 pull beside 2,000 idle connections, for a minute
	PYTHONPATH=tests $(BIN)/python -m load $(ARGS)

kubernetes-tools: $(VENV)/.kubernetes ## helm, kubectl and kubernetes-validate in .venv/bin, for the tests of deploy/ (60 MB)

$(VENV)/.kubernetes: $(VENV)/.serve .ci/kubernetes_tools.py
	$(BIN)/python .ci/kubernetes_tools.py
	@touch $@

clean: ## remove .venv and caches; never data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
