# You need Python 3.11 or newer and make. Every target creates or updates .venv itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo playground test lint types format generate bench soak scale lock audit image image-name image-test wheel-test clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

# What is installed is pinned with its hashes in requirements/. LOCKED= takes the newest releases that pyproject.toml
# allows instead, for an index that has not the pinned ones.
LOCKED ?= 1
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
FROM_LOCK := $(PIP) --require-hashes

# The product alone, for `make demo`.
$(VENV)/.product: pyproject.toml requirements/product.txt requirements/build.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d: set PYTHON=" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCKED),$(FROM_LOCK) --requirement requirements/build.txt --requirement requirements/product.txt)
	$(PIP) $(if $(LOCKED),--no-deps --no-build-isolation) --editable .
	touch $@

# The development tools. Dependency groups need pip 25.1.
$(VENV)/.development: $(VENV)/.product requirements/development.txt
	$(if $(LOCKED),$(FROM_LOCK) --requirement requirements/development.txt,$(PIP) 'pip>=25.1' && $(PIP) --group dev)
	touch $@

# What renews and audits the locks.
$(VENV)/.supply: $(VENV)/.development
	$(PIP) 'pip>=25.1'
	$(PIP) --group supply
	touch $@

demo: $(VENV)/.product ## Play the MIG walkthrough on a simulated node
	$(BIN)/mig-device-plugin demo

playground: $(VENV)/.product ## Run a simulated node with its page until Ctrl-C; NODE=, PORT=
	@$(BIN)/mig-device-plugin demo --stay $(if $(NODE),--simulate='$(NODE)') $(if $(PORT),--port='$(PORT)')

test: $(VENV)/.development ## Run every test
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadscope

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

scale: $(VENV)/.development ## Thousands of nodes against the stand-in API server: requests, peak, bytes
	$(BIN)/python -m tests.scale

lock: $(VENV)/.supply ## Write requirements/ from pyproject.toml; UPGRADE=1 takes the newest releases
	$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)

# Pins that the service does not know fail the audit as well: not to be asked about is not to be safe.
audit: $(VENV)/.supply ## Look for known vulnerabilities of all pins; needs pypi.org, or OSV_URL=
	$(BIN)/python scripts/lock.py --check
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	    $(if $(OSV_URL),--vulnerability-service osv --osv-url '$(OSV_URL)') \
	    $(patsubst %,--requirement %,$(wildcard requirements/*.txt))

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
