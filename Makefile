# Two commands do all the set-up on a fresh Debian or Ubuntu machine with Python >= 3.11:
#   make demo    from load to a judged HPA on a simulated fleet
#   make test    every test
# make check adds lint and types: what CI runs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# pip compiles nothing: most of it would never be imported. What is imported is compiled then, and kept even where the
# environment says otherwise.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults check lint types prometheus generated clean

help:            ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.installed prometheus   ## run everything once: fleet, load, collect, recommend, manifest, check
	$(BIN)/autoscale demo

test: $(VENV)/.installed-test prometheus   ## set up and run every test
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-faults: $(VENV)/.installed-test   ## every fault of servers, disks, workers and signals against real load tests (minutes)
	$(BIN)/pytest -m faults tests/loadgen

check: lint types test   ## lint, types and every test: what CI runs

lint: $(VENV)/.installed-test   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test  ## mypy on the packages
	$(BIN)/mypy

generated: $(VENV)/.installed   ## write the committed reference files anew: manifests, schemas, command reference
	$(BIN)/python -m tests.generated

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; found $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
	  else echo "Python's venv is missing: sudo apt-get install python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip    # a new one finds packages in two thirds of the time

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (about a minute) ..."
	@$(PIP) --editable .
	@touch $@

# The simulator is compiled while the test tools are fetched, and not by every test process at once.
$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test tools, compiling the simulator ..."
	@$(BIN)/python -c 'from autoscale.progress import compiled_engine; compiled_engine()' 2>/dev/null & \
	  $(PIP) --editable '.[test]'; status=$$?; wait; exit $$status
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
