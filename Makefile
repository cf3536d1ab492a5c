# Doorstep. The two that matter: `make demo` and `make test`; each sets up all it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help venv demo demo-retail test check format docs prove clean
help:
	@echo "make demo     install into .venv and run the whole journey on real data (about three minutes)"
	@echo "make demo-retail   releases in waves: five pilot stores, a region, everybody (four to six minutes)"
	@echo "make test     install and run all tests"
	@echo "make check    format, lint, types, imports between rooms, generated docs"
	@echo "make docs     write the generated pages (CLI, errors, JSON schema, OpenAPI)"
	@echo "make bench-NAME   one of: $(BENCHMARKS)"
	@echo "make prove    every benchmark and every slow proof"

venv: $(STAMP)

# uv when it is there (seconds), else pip (minutes). The dev group has the extras that tests need.
$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1 \
	  && { test -x $(BIN)/python || uv venv --quiet --python "$$(command -v $(PYTHON))" .venv; } \
	  && uv pip install --quiet --python $(BIN)/python -e . --group dev; then :; else \
	  test -x $(BIN)/pip || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" \
	  && $(BIN)/python -m pip install --quiet -e . --group dev; \
	fi
	@touch $(STAMP)

demo: venv
	@$(BIN)/doorstep demo $(DEMO_ARGS)

demo-retail: venv
	@$(BIN)/python examples/retail/story.py

# Two processes: half of the tests wait for real servers. In the order of their names: those that
# take a minute come before the thousands that take none, and no process ends alone with one.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
test: venv
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: venv
	@$(BIN)/ruff format --check src tests benchmarks examples docs
	@$(BIN)/ruff check src tests benchmarks examples docs
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python docs/generate.py --check

format: venv
	@$(BIN)/ruff format src tests benchmarks examples docs
	@$(BIN)/ruff check --fix src tests benchmarks examples docs

docs: venv
	@$(BIN)/python docs/generate.py

# One folder of benchmarks/ each: prints its table, ends with one line, exits 1 on a missed goal.
bench-%: venv
	@$(BIN)/python benchmarks/$*/run.py

BENCHMARKS := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard benchmarks/*/run.py)))))
prove: $(addprefix bench-,$(BENCHMARKS))

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
