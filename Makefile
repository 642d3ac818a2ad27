# Each target sets up .venv by itself the first time; nothing but Python 3.11+ and make is needed.
# Bytecode is compiled once, at installation: a Ray job starts a dozen processes, each of which would do it again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
S3_VENV := .venv-s3
S3_STAMP := $(S3_VENV)/.installed
WORKERS ?= 2 # processes of the suite: all that starts Ray goes to one of them
TEST_DATA := $(abspath ../shared/data)
ifneq ($(wildcard $(TEST_DATA)),)
export DIFFERNET_TEST_DATA ?= $(TEST_DATA)
endif

.PHONY: demo test test-slow test-spark browser s3-server lint types bench lock clean

demo: $(STAMP)  ## archive, fit, score, evaluate and a query, on images that it makes itself
	$(BIN)/differnet-ray demo --dir demo

test: $(STAMP) $(S3_STAMP) browser  ## the whole suite
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope

test-slow: $(STAMP) $(S3_STAMP)  ## what is too slow for every change
	$(BIN)/python -m pytest -m slow

test-spark: $(STAMP)  ## the tables in Spark, which is large; Java 17 must be there
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r tests/spark/requirements.txt
	$(BIN)/python -m pytest -m spark

browser:  ## Chromium for the tests of pages, where Debian's packages can be had; else those tests are skipped
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 </dev/null || echo "no Chromium: the tests of pages are skipped"

s3-server: $(S3_STAMP)  ## what the tests of storage on S3 start: OpenStack Swift

lint: $(STAMP)  ## style, imports, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict on the package and the jobs
	$(BIN)/mypy

bench: $(STAMP)  ## the speed figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks

COMPILE := $(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --quiet

lock: $(STAMP)  ## the pinned dependencies again, from pyproject.toml and tests/*/requirements.in
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	$(COMPILE) --no-annotate pyproject.toml --constraints requirements.lock -o cluster/requirements.txt
	echo 'hatchling>=1.25' | $(COMPILE) --no-annotate - --constraints requirements.lock -o cluster/docker/build-requirements.txt
	for kind in s3 spark; do $(COMPILE) tests/$$kind/requirements.in -o tests/$$kind/requirements.txt; done

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

$(S3_STAMP): tests/s3/requirements.txt | $(STAMP)
	test -x $(S3_VENV)/bin/python || $(PYTHON) -m venv $(S3_VENV)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(S3_VENV)/bin/python --require-hashes -r tests/s3/requirements.txt
	touch $(S3_STAMP)

clean:  ## removes all that make made
	rm -rf $(VENV) $(S3_VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
