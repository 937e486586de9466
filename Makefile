PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DOCUMENTED := .venv/documented

.DEFAULT_GOAL := help
.PHONY: help run test check bench docs lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'run and test hand ARGS to their command: make test ARGS="tests/test_process.py -x"'

run: $(INSTALLED)  ## Train SQDF on the embedded world, evaluate it, write the report
	$(BIN)/python -m rdt.run method=sqdf reward=hps $(ARGS)

test: $(INSTALLED)  ## Run the tests, one process per core (the slow ones: make test ARGS="-m slow")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(INSTALLED)  ## Check format, lint, import contract and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

bench: $(INSTALLED)  ## Run every benchmark in benchmarks/ and print its ratios
	@for file in benchmarks/*.py; do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

docs: $(DOCUMENTED)  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock:  ## Resolve constraints.txt again (needs uv on the PATH)
	env -u UV_FIND_LINKS uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras \
		--no-annotate --custom-compile-command "make lock" --quiet --output-file constraints.txt

clean:  ## Remove caches and built files; outputs and .venv stay
	rm -rf build dist site *.egg-info .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find rdt conf tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DOCUMENTED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@
