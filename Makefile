# make demo    a sentence becomes a video on this machine (PROMPT="..." to choose the sentence)
# make test    lint, then the default test run
# make lint    ruff, mypy, import contracts
# make clean   remove the environment and everything the tools left behind
#
# Needs only python3 (3.11 or newer) with venv. Everything is installed into .venv, whatever environment is active.

PYTHON ?= python3
PROMPT ?= a red ball jumps on green grass
OUT ?= outputs

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The stamps carry what they depend on in their name: edited requirements or a moved folder mean a new installation.
KEY := $(shell { cat pyproject.toml constraints.txt; pwd; } | cksum | cut -d ' ' -f 1)
READY := $(VENV)/.m4v-ready-$(KEY)
READY_TEST := $(VENV)/.m4v-ready-test-$(KEY)

# An active environment or a stray search path must not leak into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER
export PYTHONNOUSERSITE := 1
# Through the environment, so that quotes in a sentence do no harm.
export PROMPT

.PHONY: demo test lint clean help
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(READY)
	@mkdir -p "$(OUT)"
	$(BIN)/m4v generate "$$PROMPT" --out "$(OUT)/"
	@echo "The video is in $(abspath $(OUT)): open it with any player. Another one: make demo PROMPT='a blue cube moves to the left'"

test: lint
	$(BIN)/python -m pytest -n 2

lint: $(READY_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("M4V needs Python 3.11 or newer, this is %d.%d. Try: make $(MAKECMDGOALS) PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv --clear $(VENV)

$(READY): | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	@rm -f $(VENV)/.m4v-ready-[0-9]*
	@touch $@

$(READY_TEST): | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[test]"
	@rm -f $(VENV)/.m4v-ready-*
	@touch $(READY) $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
