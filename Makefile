# Everything a bare machine with Python 3.11 to 3.13 needs: each target first sets up .venv.

VENV := .venv
BIN := $(VENV)/bin
UV = $(firstword $(wildcard $(BIN)/uv) uv)
COMPILE = $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --extra build

# The first Python that is in range and can make virtual environments; asked only when needed.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$python && break; done)

SEED ?= 1
STEPS ?= 50000
EXAMPLES ?= 200

.PHONY: help demo test chaos fuzz fuzz-api bench check lock schemas clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {sub("%", "NAME", $$1); printf "make %-15s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)

demo: $(VENV)/installed ## run the main job on sample entities, with nothing but Python
	@$(BIN)/imagepipe demo

test: $(VENV)/installed-dev ## run every test (ARGS="-k fingerprint" for some)
	@echo "==> Apache Kafka's jars, for the tests (fetched once, with Java and Maven)"
	@$(BIN)/python -m tests.kafka.jars || echo "    going on: the tests say which Kafka they use"
	@echo "==> Tests"
	@$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

chaos: $(VENV)/installed-dev ## kill running workers 200 times, then audit (SEED=2 for another run)
	@echo "==> Apache Kafka's jars (fetched once, with Java and Maven)"
	@$(BIN)/python -m tests.kafka.jars
	@echo "==> Chaos: half an hour at most"
	@$(BIN)/python -m tests.chaos --seed $(SEED) --kills 200 --minutes 30 $(ARGS)

fuzz: $(VENV)/installed-dev ## invent 50,000 steps for the ledger and compare it with its definition
	@FUZZ_STEPS=$(STEPS) $(BIN)/python -m pytest --timeout 3600 $(ARGS) \
	  tests/integration/test_ledger_model.py tests/integration/test_ledger_concurrency.py

fuzz-api: $(VENV)/installed-dev ## a long run of schemathesis, all checks (EXAMPLES=200)
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest $(ARGS) tests/acceptance/test_schemathesis.py

bench: $(VENV)/installed-dev ## measure everything, into benchmarks/RESULTS.md (BENCH_QUICK=1: only try it)
	@echo "==> Apache Kafka's jars (fetched once, with Java and Maven)"
	@$(BIN)/python -m tests.kafka.jars
	@echo "==> Benchmarks: half an hour at most"
	@$(BIN)/python -m benchmarks $(ARGS)

bench-%: $(VENV)/installed-dev ## measure one thing: intake, latency, purchase, api, ... (BENCH_QUICK=1)
	@echo "==> Apache Kafka's jars (fetched once, with Java and Maven)"
	@$(BIN)/python -m tests.kafka.jars
	@$(BIN)/python -m benchmarks $* $(ARGS)

check: $(VENV)/installed-dev ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: ## write both lock files again (ARGS=--upgrade for newer versions)
	$(COMPILE) $(ARGS) --output-file requirements.lock
	$(COMPILE) $(ARGS) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

schemas: $(VENV)/installed ## write the generated contracts in schemas/ again
	@$(BIN)/python -m schemas
	@$(BIN)/python -m pipeline.api.document

clean: ## remove what was built and fetched; .imagepipe, which holds data, stays
	rm -rf $(VENV) tests/kafka/target *.egg-info .*_cache .hypothesis

$(VENV)/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "imagepipe needs Python 3.11, 3.12 or 3.13 with its venv" \
	  "module; none was found. Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || { echo "==> Virtual environment $(VENV) with $(PYTHON)"; \
	  $(PYTHON) -m venv $(VENV); }
	@echo "==> Dependencies from requirements.lock"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "==> imagepipe itself, editable"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.lock
	@echo "==> Development tools from requirements-dev.lock"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
