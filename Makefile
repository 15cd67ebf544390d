# Every target sets up .venv when it is missing or out of date.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(or $(shell for python in python3.11 python3.12 python3; do \
  $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
STAMP := .venv/.stamp
SOURCES := ttt ray_jobs tests benchmarks

COMPILER := import sysconfig; print((sysconfig.get_config_var("CXX") or "g++").split()[0])
METRICS_STAMP := .venv/.stamp-metrics
# What `setup` and all that need it wait for; METRICS=1 asks for ViSQOL besides.
READY := $(STAMP) $(if $(filter 1,$(METRICS)),$(METRICS_STAMP))

export RAY_ENABLE_UV_RUN_RUNTIME_ENV = 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-jobs test-library test-rest test-faults same check format bench \
  schema submit lock

help:
	@echo 'make demo         the whole story on this CPU, ending with the path of a report'
	@echo 'make test         all tests but the fault tests'
	@echo 'make test-faults  kills workers and checks that nothing is lost'
	@echo 'make same         twenty small training steps and a chapter against the values in tests/;'
	@echo '                  make same REWRITE=1 renews them and prints the largest difference'
	@echo 'make check        ruff and the type checker;  make format mends what ruff can'
	@echo 'make bench        the benchmarks of benchmarks/README.md'
	@echo 'make schema       writes configs/schema.json from the configuration classes'
	@echo "make submit       a job on a cluster: make submit JOB=train_decoder ARGS='--config ... key=value'"
	@echo 'make lock         resolves requirements.lock anew (needs uv)'
	@echo 'make setup        builds .venv from requirements.lock; every target above does so first'
	@echo 'make setup METRICS=1  adds ViSQOL from requirements-metrics.txt (needs a C++ compiler)'

setup: $(READY)

# The stamp is written last, so that an interrupted setup is done again.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)' || { \
	  echo 'error: Python 3.11 or 3.12 is needed and $(PYTHON) is neither; install one and run' \
	    'make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)' >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --no-deps -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

# ViSQOL's libsvm comes as source only. Nothing removes it again, so a later `make setup` keeps it.
$(METRICS_STAMP): $(STAMP) requirements-metrics.txt
	@compiler=$${CXX:-$$($(BIN)/python -c '$(COMPILER)')}; command -v $$compiler >/dev/null || { \
	  echo "error: METRICS=1 compiles libsvm and there is no C++ compiler $$compiler; install" \
	    'one (apt-get install g++), or run make without METRICS=1' >&2; \
	  exit 1; }
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --use-pep517 \
	  -r requirements-metrics.txt
	@touch $@

demo: $(READY)
	$(BIN)/python -m ray_jobs.demo

# Two at a time: the tests of the jobs wait for Ray most of the time, the others keep a core busy.
NOT_FAULTS := $(BIN)/python -m pytest -q -m 'not faults'

test: $(READY)
	+@$(MAKE) --no-print-directory -k -j2 test-jobs test-library test-rest

test-jobs: $(READY)
	$(NOT_FAULTS) tests/ray_jobs

test-library: $(READY)
	$(NOT_FAULTS) tests/ttt

test-rest: $(READY)
	$(NOT_FAULTS) tests --ignore=tests/ray_jobs --ignore=tests/ttt

test-faults: $(READY)
	$(BIN)/python -m pytest -q -m faults

same: $(READY)
	$(BIN)/python -m tests.same $(if $(filter 1,$(REWRITE)),--rewrite)

check: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/basedpyright

format: $(READY)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(READY)
	$(BIN)/python -m benchmarks

schema: $(READY)
	$(BIN)/python -m ray_jobs.schema

submit: $(READY)
	@$(BIN)/python -m ray_jobs.submit $(JOB) $(ARGS)

lock:
	uv pip compile --universal --python-version 3.11 --extra moshi --extra jobs --extra onnx --extra dev \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q pyproject.toml -o requirements.lock
