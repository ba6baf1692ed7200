# Everything lives in .venv; `make search` and `make test` are all the set-up there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2 --dist worksteal

.PHONY: help install search test test-slow lint clean

help:
	@echo "make search     installs, then searches for small codecs (about a quarter of an hour on 2 cores)"
	@echo "make test       installs, then lints and runs the tests (within a quarter of an hour on 2 cores)"
	@echo "make test-slow  installs, then runs those that take minutes each: processes that die, disks"
	@echo "                that fail, PostgreSQL, Slurm, targets, README as it stands"
	@echo "make lint       ruff, mypy and import-linter only"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

install: $(VENV)/installed

search: install
	$(BIN)/kdbench search --study kd_pareto

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info
