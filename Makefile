# Everything here makes its own virtual environment, .venv, on a machine that has nothing but Python 3.11 or newer.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,$(if $(shell $(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test test-quick test-slow test-previous lint golden support docs clean

help:           ## show what can be made
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/: .*##/\t/'

$(READY): pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "kexport needs Python 3.11 or newer; none is on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

install: $(READY)  ## the virtual environment, with kexport editable and everything for development

demo: $(READY)  ## convert the demo model, generate from it, print the parity table
	$(BIN)/kexport demo --workdir demo-work

test: test-quick test-slow  ## all tests, the quick ones first

test-quick: $(READY)  ## the tests that need neither Keras nor TensorFlow, and one process that does
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)  ## the tests against KerasHub, and those that build environments; two processes
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

# What capture needs of the library's previous release, in an environment of its own.
PREVIOUS := keras-hub==0.31.*
READY_PREVIOUS := .venv-previous/.ready

$(READY_PREVIOUS): pyproject.toml setup.py Makefile
	$(PYTHON) -m venv .venv-previous
	.venv-previous/bin/python -m pip install --quiet -e ".[convert]" "$(PREVIOUS)" pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

test-previous: $(READY_PREVIOUS)  ## capture of the seed families under the previous release of KerasHub
	.venv-previous/bin/python -m pytest -m slow tests/graphs/capture/test_seed_families.py

# mypy does not follow the finder of an editable install: it gets the packages as a tree of links.
lint: $(READY)  ## ruff, import contracts, mypy
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	@mkdir -p $(VENV)/tree/kexport
	@for part in converter graphs runtime targets; do ln -sfn "$(CURDIR)/$$part" $(VENV)/tree/kexport/$$part; done
	MYPYPATH=$(VENV)/tree $(BIN)/mypy -p kexport

golden: $(READY)  ## make a rotating part of the golden files again from KerasHub and compare
	$(BIN)/python -m tests.golden.write_goldens --check --part commit
	$(BIN)/python -m tests.golden.check_rewritten
	$(BIN)/python -m tests.golden.write_zoo_samplers --check --part commit

support: $(READY)  ## the page of what converts, from the tests of families
	rm -f docs/support.json
	KEXPORT_SUPPORT_DATA=docs/support.json $(BIN)/python -m pytest -m slow tests/parity/test_families.py tests/parity/test_matrix.py -k proven
	$(BIN)/python -m kexport.converter.support_page docs/support.json docs/support.md

docs: $(READY)  ## the pages that are made from the code: errors, ops, the manifest's schema
	$(BIN)/python -m kexport.converter.error_page docs/errors.md
	$(BIN)/python -m kexport.graphs.ops_page docs/ops.md
	$(BIN)/python -m kexport.runtime.contract.schema docs/kexport.schema.json

clean:          ## remove what was made here
	rm -rf $(VENV) .venv-previous demo-work build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
