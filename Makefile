PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint clean

quickstart: .venv/installed
	$(BIN)/preceptor quickstart

test: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --ignoreexternal --verifytypes preceptor

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

.venv/linted: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	touch $@

clean:
	rm -rf .venv dist
