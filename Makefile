# Two commands do all the set-up on a fresh Debian or Ubuntu machine with Python >= 3.11:
#   make demo    from load to a judged HPA on a simulated fleet
#   make test    every test
# make check adds lint and types: what CI runs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# What is installed is locked, hashes included (requirements/, made by `make lock`). uv where it is, pip where not; pip
# compiles nothing: most of it would never be imported. What is imported is compiled then, and kept even where the
# environment says otherwise.
UV     := $(shell command -v uv 2>/dev/null)
PIP    := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile)
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types prometheus generated lock test-lowest test-newest clean

help:            ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.installed prometheus   ## run everything once: fleet, load, collect, recommend, manifest, check
	$(BIN)/autoscale demo

test: $(VENV)/.installed-test prometheus   ## set up and run every test
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

check: lint types test   ## lint, types and every test: what CI runs

lint: $(VENV)/.installed-test   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test  ## mypy on the packages
	$(BIN)/mypy

generated: $(VENV)/.installed   ## write the committed reference files anew: manifests, schemas, command reference
	$(BIN)/python -m tests.generated

# --- the lock --------------------------------------------------------------------------------------------------------

COMPILE = $(UV_RUN) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-emit-index-url --custom-compile-command 'make lock' $(LOCK)
# uv itself, from the registry where it is not on PATH
UV_RUN = $(if $(UV),$(UV),.venv-uv/bin/uv)

.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

lock: $(if $(UV),,.venv-uv/bin/uv)   ## lock the newest versions for every platform and Python 3.11 to 3.14; LOCK='-P name' moves one
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) pyproject.toml requirements/build.in -o requirements/run.txt
	$(COMPILE) pyproject.toml requirements/build.in --extra test -c requirements/run.txt -o requirements/test.txt

# What tells within two minutes whether a set of versions works: no load, no search, no notebook.
FAST := tests/analysis tests/hpa tests/profiles tests/observe tests/deploy tests/pages tests/test_generated.py \
  tests/loadgen/test_records.py tests/loadgen/test_stream.py tests/loadgen/test_traffic.py tests/loadgen/test_traces.py \
  tests/sim/test_engine.py tests/check/test_preflight.py
with_versions = $(UV_RUN) venv --quiet --clear --python $(PYTHON) $(1) \
  && $(UV_RUN) pip install --quiet --python $(1)/bin/python $(2) --editable '.[test]' \
  && $(UV_RUN) pip list --quiet --python $(1)/bin/python | grep -iE '^(aiohttp|kubernetes|locust|matplotlib|numba|numpy|pandas|pyarrow|pydantic|pyyaml|scipy|typer|pytest|hypothesis) ' \
  && $(1)/bin/python -m pytest -n auto --dist loadfile $(FAST)

test-lowest: prometheus $(if $(UV),,.venv-uv/bin/uv)   ## the fast tests with the oldest versions that pyproject.toml allows
	$(call with_versions,.venv-lowest,--resolution lowest-direct)

test-newest: prometheus $(if $(UV),,.venv-uv/bin/uv)   ## the fast tests with the newest versions, whatever is locked
	$(call with_versions,.venv-newest,--upgrade)

clean:           ## remove the virtual environments and caches
	rm -rf $(VENV) .venv-uv .venv-lowest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# --- the virtual environment -----------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; found $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
	  else echo "Python's venv is missing: sudo apt-get install python3-venv"; exit 1; fi; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml requirements/run.txt requirements/build.txt | $(VENV)/bin/python
	@echo "Installing the locked packages into $(VENV) (up to a minute) ..."
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# The simulator is compiled while the test tools are fetched, and not by every test process at once.
$(VENV)/.installed-test: $(VENV)/.installed requirements/test.txt
	@echo "Installing the test tools, compiling the simulator ..."
	@$(BIN)/python -c 'from autoscale.progress import compiled_engine; compiled_engine()' 2>/dev/null & \
	  $(PIP) --require-hashes -r requirements/test.txt; status=$$?; wait; exit $$status
	@touch $@

# A real Prometheus server for the demo and the tests. Without root: the demo falls back to its own scraper and the
# test that needs the server is skipped (never when CI=true).
prometheus:
	@command -v prometheus >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing the prometheus package ..."; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null; } \
	      || echo "Could not install prometheus; going on without it."; \
	  else echo "No prometheus found: sudo apt-get install prometheus (going on without it)"; fi; }
