# You need Python 3.11 or newer and make. Every target creates or updates .venv itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo playground test lint types format generate bench image image-name image-test wheel-test clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

# The product alone, for `make demo`.
$(VENV)/.product: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d: set PYTHON=" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# The development tools. Dependency groups need pip 25.1.
$(VENV)/.development: $(VENV)/.product
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	touch $@

demo: $(VENV)/.product ## Play the MIG walkthrough on a simulated node
	$(BIN)/mig-device-plugin demo

playground: $(VENV)/.product ## Run a simulated node with its page until Ctrl-C; NODE=, PORT=
	@$(BIN)/mig-device-plugin demo --stay $(if $(NODE),--simulate='$(NODE)') $(if $(PORT),--port='$(PORT)')

test: $(VENV)/.development ## Run every test
	$(BIN)/python -m pytest

lint: $(VENV)/.development ## Lint, types, import contracts, freshness of generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python scripts/generate.py --check
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.development ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

generate: $(VENV)/.development ## Generate plugin/api from protos/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python scripts/generate.py

bench: $(VENV)/.development ## Measure against the budgets
	$(BIN)/python -m tests.benchmarks

soak: $(VENV)/.development ## Ten minutes of churn: nothing may grow, the end has to be right
	$(BIN)/python -m tests.soak

wheel-test: $(VENV)/.development ## Install the built wheel into an empty environment and run it
	scripts/wheel-test.sh $(BIN)/python

# As the chart names it when image.repository and image.tag are not set: its appVersion is the package's version.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' plugin/__init__.py)
IMAGE ?= localhost/mig-device-plugin:$(VERSION)
BUILDER ?= $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))

image: ## Build the image under the name that the chart pulls; IMAGE=, BUILD_IMAGE=, RUNTIME_IMAGE=, BUILDER=
	$(if $(BUILDER),,$(error neither docker, podman nor buildah is here: install one, or run make image-test))
	$(BUILDER) build --tag $(IMAGE) \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse --verify HEAD 2>/dev/null || echo unknown) \
	    $(foreach name,BUILD_IMAGE RUNTIME_IMAGE,$(if $($(name)),--build-arg $(name)=$($(name)))) \
	    .

image-name:
	@echo $(IMAGE)

image-test: ## Build the image and run it
	scripts/image-test.sh

clean: ## Remove everything that the other targets create
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
