# Each target sets up .venv by itself the first time; nothing but Python 3.11+ and make is needed.
# Bytecode is compiled once, at installation: a Ray job starts a dozen processes, each of which would do it again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_DATA := $(abspath ../shared/data)
ifneq ($(wildcard $(TEST_DATA)),)
export DIFFERNET_TEST_DATA ?= $(TEST_DATA)
endif

.PHONY: demo test lint types bench lock clean

demo: $(STAMP)  ## archive, fit, score, evaluate and a query, on images that it makes itself
	$(BIN)/differnet-ray demo --dir demo

test: $(STAMP)  ## the whole suite
	$(BIN)/python -m pytest

lint: $(STAMP)  ## style, imports, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict on the package and the jobs
	$(BIN)/mypy

bench: $(STAMP)  ## the speed figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks

lock:  ## requirements.lock again, from pyproject.toml
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --quiet -o requirements.lock

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

clean:  ## removes all that make made
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
