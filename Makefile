# Everything runs from .venv, which is made on first use: a clone needs only make and Python >= 3.11.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.DEFAULT_GOAL := help

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "holdfast needs Python 3.11 or newer, and '$(PYTHON)' is older or absent: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): this takes a minute or two, once"

# One stamp file an extra: installation is repeated only when pyproject.toml changed.
$(VENV)/.installed: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@ $(VENV)/.installed

run: $(VENV)/.installed ## Set up, then run the trade workflow on a simulated market
	@$(PY) -m graph.run --workflow trade

test: $(VENV)/.installed-dev ## Set up, then run the whole test suite
	$(PY) -m pytest -rs -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev ## Lint, format check, strict types, import direction
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

crash: $(VENV)/.installed-dev ## Kill a run wherever it keeps anything, and at every line, and resume it: an hour
	$(PY) -m tests.crash
	$(PY) -m tests.crash --points lines
	$(PY) -m tests.crash --database postgres --kills 2000 --doubles 1000

soak: $(VENV)/.installed-dev ## Sessions on real time and sockets: ten minutes, a cut link, a flood, a day: half an hour
	$(PY) -m tests.soak

sim: $(VENV)/.installed-dev ## Trade 10,000 sessions of ten minutes with faults on virtual time, on all cores: three hours on two
	$(PY) -m tests.simulation session --runs 10000 --jobs $$(nproc)

bench: $(VENV)/.installed-bench ## Run every benchmark
	$(PY) -m benchmarks

studio: $(VENV)/.installed-studio ## Open the workflow in LangGraph Studio (dev server on loopback)
	LANGSMITH_TRACING=false LANGGRAPH_CLI_NO_ANALYTICS=1 $(VENV)/bin/langgraph dev --no-browser --host 127.0.0.1

clean: ## Remove the environment and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .langgraph_api

.PHONY: help run test check crash sim soak bench studio clean
