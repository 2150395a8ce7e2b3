# Each target sets itself up in .venv, once; after that it runs at once.
#
#   make demo     train two agents side by side and show what they learned
#   make test     run the tests
#   make check    format, lint, types, layering, README
#   make format   put the code into its format
#
# make demo PYTHON=python3.12                              with another Python, 3.11 or later
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   on Linux without a GPU: some gigabytes less

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
INSTALLED_FOR_TESTS := $(VENV)/.installed-for-tests

.PHONY: demo test check format
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/forethought demo

test: $(INSTALLED_FOR_TESTS)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(INSTALLED_FOR_TESTS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p forethought
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/house/test_readme.py

format: $(INSTALLED_FOR_TESTS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Forethought needs Python 3.11 or later; name one: make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(if $(TORCH_INDEX),$(PIP) install --index-url $(TORCH_INDEX) torch)
	$(PIP) install --editable .
	@touch $@

$(INSTALLED_FOR_TESTS): $(INSTALLED)
	$(PIP) install --editable '.[test]'
	@touch $@
