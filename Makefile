# One entry point for everything. `make` alone lists the targets.
# Needs git, make, bash and Python >= 3.11; every target makes .venv and installs what it needs.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test test-slow test-minimum test-newest lint format bench docs docs-serve clean

PYTHON ?= python3
# More arguments for pip or pytest, e.g. make test ARGS="-k fcos"; CPU wheels of torch (2 GB less to download):
# make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
ARGS ?=
# One torch thread in each of two test workers: two cores are what the time limits are set for.
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

help: ## list the targets
	@echo "hemolens: make <target>"
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(INSTALLED) ## make the virtual environment and install hemolens with its development tools

# The stamp is written last, so an interrupted install is taken up again by the next make.
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) > /dev/null || \
	    { echo "'$(PYTHON)' not found: install Python 3.11 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$$($(PYTHON) --version) is too old: hemolens needs 3.11 or newer. Name one: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -c 'import pip' 2> /dev/null || $(PYTHON) -m venv --clear .venv || \
	    { echo "cannot make .venv: this Python lacks venv (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Installing hemolens and its libraries into .venv: once, a few minutes, up to 3 GB with torch's GPU wheels"
	@PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e '.[dev]' 2>&1 \
	    | tee .venv/install.log \
	    | awk -v terminal="$$([ -t 1 ] && echo 1 || echo 0)" ' \
	        /^Collecting/ { n++ } \
	        terminal && /^(Collecting|  *Downloading|Installing)/ { printf "\r\033[K  %3d packages  %.60s", n, $$0; fflush() } \
	        !terminal && /^Collecting/ && n % 25 == 0 { printf "  %3d packages\n", n; fflush() } \
	        END { if (terminal) printf "\r\033[K" }' \
	    || { tail -n 20 .venv/install.log; echo "pip failed; all it said is in .venv/install.log"; exit 1; }
	@touch $@
	@echo "Installed; $(BIN)/hemolens --help lists the verbs"

demo: $(INSTALLED) ## simulate blood fields, train FCOS on the CPU (at most ten minutes), test it, draw the results
	$(BIN)/hemolens train experiment=demo

demo-quick: $(INSTALLED) ## the demo cut to about a minute, as CI runs it
	$(BIN)/hemolens train experiment=demo trainer.max_epochs=1 data.n_samples=10 data.fields_per_sample=6

test: $(INSTALLED) ## the fast tests (about 11 minutes on two cores); ARGS="..." goes to pytest
	$(PYTEST) $(ARGS)

test-slow: $(INSTALLED) ## a step of every experiment, overfit, DDP, resume, notebooks, wheel (at most 18 minutes on two cores)
	$(PYTEST) -m slow $(ARGS)

# In environments of their own, 5 GB each: for who changes a bound of pyproject.toml.
test-minimum: ## the fast tests with the oldest libraries that pyproject.toml allows, in .venv/minimum
	$(PYTHON) -m venv --clear .venv/minimum
	$(PYTHON) scripts/versions.py --extra export > .venv/minimum/constraints.txt
	.venv/minimum/bin/python -m pip install $(PIP_ARGS) -c .venv/minimum/constraints.txt -e '.[dev]'
	OMP_NUM_THREADS=1 .venv/minimum/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-newest: ## the fast tests with the newest libraries that pyproject.toml allows, in .venv/newest
	$(PYTHON) -m venv --clear .venv/newest
	.venv/newest/bin/python -m pip install $(PIP_ARGS) --upgrade --upgrade-strategy eager -e '.[dev]'
	OMP_NUM_THREADS=1 .venv/newest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(INSTALLED) ## check style, types, spelling, notebooks and text files; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/codespell # not what runs left in the clone
	find notebooks -name '*.ipynb' -print0 | xargs -0 -r $(BIN)/nbstripout --verify
	$(BIN)/python scripts/check_text_files.py

format: $(INSTALLED) ## rewrite the code in the house format and strip notebook outputs
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	find notebooks -name '*.ipynb' -print0 | xargs -0 -r $(BIN)/nbstripout

bench: $(INSTALLED) ## time hemolens against its peers; JSON into results/
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(INSTALLED) ## build the documentation site into build/site; a warning or a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html; its search wants a server: make docs-serve"

docs-serve: $(INSTALLED) ## show the documentation site at http://127.0.0.1:8000, and rebuild it as files change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean: ## remove caches and build products; keeps .venv, data and outputs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true
