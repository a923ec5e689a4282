# What a newcomer runs; `make` alone lists it. CI runs the same.
PYTHON ?= python3
VENV   ?= .venv
# Flavour of llama.cpp's build: native (this processor, quick to build) or portable (every processor).
WHEEL  ?= native

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --require-virtualenv
INSTALL := $(PIP) install --quiet
RUNTIME := $(VENV)/.runtime-$(WHEEL)
DEV     := $(VENV)/.dev-$(WHEEL)
BENCH   := $(VENV)/.bench-$(WHEEL)
CONVERT := $(VENV)-convert/.converter
# Tests without a model take one core each; those with one have the machine for themselves.
FAST    := -m "not model" -n auto --maxprocesses 4 --dist loadfile
REPORTS := build/tests

.DEFAULT_GOAL := help
.PHONY: help run venv convert test torture lint check format lock clean bench bench-full image test-image bundle

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Install what is missing, fetch the default model and serve it on 127.0.0.1:8080
	@$(BIN)/appliance models fetch
	@exec $(BIN)/appliance serve

venv: $(DEV) ## Install everything, with the tools for development, into .venv

convert: $(CONVERT) ## Install the converter for `appliance models build` into .venv-convert

test: $(DEV) $(CONVERT) ## Run all tests, with the real model
	@$(BIN)/appliance models fetch
	$(BIN)/pytest $(FAST) --junit-xml $(REPORTS)/fast.xml
	$(BIN)/pytest -m model --junit-xml $(REPORTS)/model.xml
	@$(BIN)/python scripts/count_tests.py $(REPORTS)/fast.xml $(REPORTS)/model.xml

torture: $(DEV) $(CONVERT) ## Kill each stage of a model's build, and who writes the response cache, at random moments
	@$(BIN)/appliance models fetch
	TORTURE_POINTS=50 $(BIN)/pytest -v tests/cache/test_torture.py
	TORTURE_POINTS=20 $(BIN)/pytest -v tests/pipeline/test_torture.py

lint: $(DEV) ## Format, lint, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## The same, and the tests that need no model
	$(BIN)/pytest $(FAST)

format: $(DEV) ## Bring the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: ## Resolve the dependencies anew and write requirements/*.txt
	./scripts/lock.sh $(PYTHON)

bench: $(BENCH) ## Measure this appliance beside its peers, in under 10 minutes (bench/README.md)
	@$(BIN)/appliance models fetch
	$(BIN)/python -m bench --quick

bench-full: $(BENCH) ## The same with more rounds, all peers, and both files of the default model: about an hour
	@$(BIN)/appliance models fetch
	$(BIN)/python -m bench --gguf q4_0 --gguf q4_1

clean: ## Remove the virtual environment and the caches in this folder
	rm -rf $(VENV) $(VENV)-convert build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(RUNTIME): requirements/build.txt requirements/tui.txt requirements/llama.txt $(wildcard scripts/llama* scripts/patches/*) pyproject.toml
	@./scripts/preflight.sh $(PYTHON)
	@echo "installing into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes -r requirements/build.txt
	@$(INSTALL) --require-hashes -r requirements/tui.txt
	@wheel=$$($(BIN)/python scripts/llama_wheel.py --flavour $(WHEEL)) && \
	    $(INSTALL) --no-deps --no-index --force-reinstall "$$wheel"
	@$(INSTALL) --no-deps --no-index --no-build-isolation --editable .
	@rm -f $(VENV)/.runtime-* && touch $@

$(DEV): $(RUNTIME) requirements/dev.txt
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@rm -f $(VENV)/.dev-* && touch $@

$(BENCH): $(RUNTIME) requirements/bench.txt
	@$(INSTALL) --require-hashes -r requirements/bench.txt
	@rm -f $(VENV)/.bench-* && touch $@

$(CONVERT): $(RUNTIME) requirements/convert.lock requirements/convert.in requirements/llama.txt scripts/converter.py
	@$(BIN)/python scripts/converter.py $(VENV)-convert
	@touch $@

# What the image is for: cpu or cuda.
FLAVOUR ?= cpu
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' appliance/__init__.py)
IMAGE   ?= llm-appliance:$(VERSION)-$(FLAVOUR)

image: ## Build the image that `docker compose up` runs (docs/docker.md)
	./scripts/build_image.sh runtime-$(FLAVOUR) $(IMAGE)

test-image: $(DEV) $(CONVERT) ## Build an image and try it out, with a real Docker engine
	@$(BIN)/appliance models fetch
	./scripts/wheelhouse.sh llama torch
	$(BIN)/pytest -m image tests/image

bundle: ## Write one archive for a machine without network into dist/
	./scripts/bundle.sh $(IMAGE)
