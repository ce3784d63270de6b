# Everything is one target; each sets up what it needs by itself. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG := $(firstword $(wildcard config.yaml) config.example.yaml)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url
COMPILE = $(LOCK) pyproject.toml

# Files side by side; the tests of one share its servers. A part of the suite runs in one process, and its output shows.
AT_ONCE := --numprocesses auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help serve dev-lambda test check fuzz soak bench bench-peers bench-lambda counts performance build canary lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

serve: $(VENV)/.serve ## run the gateway on 127.0.0.1:8080 (config.yaml, else the example); ARGS="--addr ..." is passed on
	@exec $(BIN)/sluice serve --config $(CONFIG) $(ARGS)

dev-lambda: $(VENV)/.dev ## run the function on 127.0.0.1:8080, streaming, without AWS; ARGS="--port ..." is passed on
	@exec $(BIN)/python -m tests.dev_lambda --config $(CONFIG) $(ARGS)

test: $(VENV)/.dev $(VENV)/.dynalite $(VENV)/.sam ## the whole test suite, offline; ARGS="-k name" is passed on
	$(BIN)/python -m pytest $(or $(ARGS),$(AT_ONCE))

check: $(VENV)/.dev ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/.dev ## search for bytes that a decoder stumbles over, for a minute; ARGS="-max_total_time=3600"
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; then exec $(BIN)/python -m tests.fuzz $(or $(ARGS),-max_total_time=60); \
	else echo "Skipped: atheris has no wheel for this Python or machine (Linux on x86_64, Python 3.11 to 3.13)."; fi

soak: $(VENV)/.dev ## mixed traffic, failing providers and stores that go away, for minutes; ARGS="--hours 2"
	$(BIN)/python -m tests.soak $(ARGS)

bench: $(VENV)/.dev ## what the gateway costs beside nginx, where there is one, and a bare relay: two minutes
	$(BIN)/python -m bench quick

bench-peers: $(VENV)/.peers ## the same at length, beside LiteLLM and Portkey: a quarter of an hour
	$(BIN)/python -m bench peers

bench-lambda: $(VENV)/.dev build ## cold start, what is imported, the delay of a chunk, the artifact
	$(BIN)/python -m bench.lambda_door $(ARGS)

counts: $(VENV)/.dev ## a request's function calls and instructions, which repeat; ARGS=--accept makes them the measure
	$(BIN)/python -m bench counts $(ARGS)

performance: $(VENV)/.dev ## write the tables and the chart of docs/performance.md from the last results
	$(BIN)/python -m bench report

build: $(VENV)/.sam ## the function for Lambda, in .aws-sam, and what is in it
	SAM_CLI_TELEMETRY=0 $(VENV)/sam/bin/sam build
	$(BIN)/python -m scripts.artifact .aws-sam/build/Gateway

canary: $(VENV)/.dev ## has Lambda's own runtime, or Mangum, learnt to stream meanwhile?
	$(BIN)/python -m scripts.canary

lock: $(VENV)/.dev ## compile the hashed requirements anew from pyproject.toml; UP=--upgrade takes newer releases
	$(COMPILE) $(UP) --extra serve --extra lambda --group dev --group build --output-file requirements/dev.txt
	$(COMPILE) $(UP) --extra serve --group build --constraint requirements/dev.txt --output-file requirements/serve.txt
	$(COMPILE) $(UP) --extra lambda --constraint requirements/dev.txt --output-file src/requirements.txt
	$(LOCK) $(UP) --group sam --output-file requirements/sam.txt
	$(LOCK) $(UP) bench/peers/requirements.in --output-file bench/peers/requirements.txt

clean: ## remove the environment and all that was made
	rm -rf $(VENV) .aws-sam .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .sluice

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sluice needs Python 3.11 or later: make PYTHON=python3.13 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# A second DynamoDB for the tests. Without Node they skip what needs it, and say so.
$(VENV)/.dynalite: tests/dynalite/package-lock.json | $(BIN)/python
	@mkdir -p $(VENV)/dynalite && cp tests/dynalite/package*.json $(VENV)/dynalite
	@if command -v npm >/dev/null; then npm ci --prefix $(VENV)/dynalite --no-audit --no-fund --loglevel=error; fi
	@touch $@

# What we are compared with, a gigabyte, each in an environment of its own.
$(VENV)/.peers: bench/peers/requirements.txt bench/peers/package-lock.json | $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/peers/litellm
	$(BIN)/uv pip install --quiet --python $(VENV)/peers/litellm --require-hashes --requirement bench/peers/requirements.txt
	@mkdir -p $(VENV)/peers/portkey && cp bench/peers/package*.json $(VENV)/peers/portkey
	@if command -v npm >/dev/null; then npm ci --prefix $(VENV)/peers/portkey --no-audit --no-fund --loglevel=error; \
	else echo "Portkey is left out: there is no npm."; fi
	@touch $@

# SAM in an environment of its own: it wants other releases of what we use. By uv, since pip refuses its extras' hashes.
# The function's packages are fetched as well, so that the tests can build it without a network.
$(VENV)/.sam: requirements/sam.txt src/requirements.txt | $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/sam
	$(BIN)/uv pip install --quiet --python $(VENV)/sam --require-hashes --requirement requirements/sam.txt
	UV_CACHE_DIR="$(CURDIR)/$(VENV)/sam/cache" $(MAKE) --silent -C src packages ARTIFACTS_DIR="$(CURDIR)/$(VENV)/sam/packages"
	@rm -r $(VENV)/sam/packages
	@touch $@

# The checkout itself goes in editable, with the build tools of the hashed list: nothing is fetched unpinned.
$(VENV)/.serve: requirements/serve.txt pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/serve.txt
	$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/dev.txt
	$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@ $(VENV)/.serve
