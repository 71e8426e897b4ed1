# One command for everything. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAFKA := .kafka
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT_INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --quiet=2 --yes --no-install-recommends
APT_UPDATE := $(SUDO) apt-get update --quiet=2
# A comma would end an argument of `call`.
EVERYTHING := .[demo,dev,models]
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

# install EXTRAS: by uv, in a fifth of pip's time, or else by pip, which also reads settings that
# uv does not know, such as the index of a pip.conf. What is never imported need not be compiled.
define install
	@{ $(PIP) install 'uv>=0.13,<0.14' && $(UV) --editable '$(1)' --constraint constraints.txt; } \
		|| $(PIP) install --no-compile --editable '$(1)' --constraint constraints.txt
endef

# Stamps: a target that was made is not made again until what it was made from changes.
DEMO_STAMP := $(VENV)/.demo
DEV_STAMP := $(VENV)/.dev
JARS_STAMP := $(KAFKA)/.jars

# Where this is set, every process of the tests would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
# Everything under docs/ is a page, hence the phony `docs`.
.PHONY: help setup demo-setup constraints lint format docs reference test demo evaluate sim bench \
	chaos kafka-jars java docker-compose kcat prometheus model pytest clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environment -------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the packages of the demo ..."
	$(call install,.[demo])
	@touch $@

# What development needs includes what the demo needs, hence both stamps.
$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the packages of development ..."
	$(call install,$(EVERYTHING))
	@touch $@ $(DEMO_STAMP)

setup: $(DEV_STAMP) ## Create .venv with everything that development needs

demo-setup: $(DEMO_STAMP) # Create .venv with what the demo needs: no Java, no linters

constraints: | $(BIN)/python ## Resolve all packages once and write constraints.txt
	@$(PIP) install --dry-run --ignore-installed --report $(VENV)/resolved.json '$(EVERYTHING)'
	@$(BIN)/python deploy/constraints.py $(VENV)/resolved.json > constraints.new
	@mv constraints.new constraints.txt

# need PROGRAM,PACKAGES: install Debian's packages unless the program is there; no service starts.
# Of several at once (`make -j`) each waits for the other.
define need
	@if ! command -v $(1) > /dev/null; then \
		echo "Installing $(2) ..."; \
		flock Makefile sh -c '$(APT_UPDATE) && $(APT_INSTALL) $(2) > /dev/null'; \
	fi
endef

java:
	$(call need,java,default-jre-headless)
	$(call need,mvn,maven)

docker-compose:
	$(call need,docker-compose,docker-compose)

# A foreign reader of our topics, and what scrapes our metrics and checks our alerts.
kcat:
	$(call need,kcat,kcat)

prometheus:
	$(call need,promtool,prometheus)

# The old jars go first: a folder with two versions of Kafka starts neither.
$(JARS_STAMP): deploy/kafka/pom.xml | java
	@echo "Fetching the jars of Apache Kafka ..."
	@rm -rf $(KAFKA)/lib
	@mvn --quiet --batch-mode --file deploy/kafka/pom.xml dependency:copy-dependencies \
		-DoutputDirectory=$(CURDIR)/$(KAFKA)/lib
	@touch $@

kafka-jars: $(JARS_STAMP) ## Fetch the jars of the Kafka that tests and benchmarks start

clean: ## Remove all that was built or fetched
	rm -rf $(VENV) $(KAFKA) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- checks ------------------------------------------------------------------------------------

lint: $(DEV_STAMP) ## Check style, types and the direction of imports
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(DEV_STAMP) ## Format the code and mend what can be mended
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

reference: $(DEV_STAMP) ## Write into docs/ what they take from the code: settings, metrics, commands
	@$(BIN)/python deploy/reference.py

docs: reference ## Build the site of the docs: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint pytest ## Run all checks and tests, those on a real Kafka too

# Tests on a Kafka wait most of the time, so three processes fill two cores.
pytest: setup kafka-jars docker-compose kcat prometheus
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

# --- things to run -----------------------------------------------------------------------------

demo: $(DEMO_STAMP) ## Watch recommendations of a real shop; ARGS="..."
	@$(BIN)/stream-app demo $(ARGS)

model: $(DEV_STAMP) ## Train the demo's ranker from nothing, compare and export it
	@$(BIN)/python -m models train
	@$(BIN)/python -m models evaluate
	@$(BIN)/python -m models export

evaluate: $(DEV_STAMP) ## Measure the recommendations against baselines; ARGS="..."
	@$(BIN)/python -m benchmarks.next_basket $(ARGS)

sim: $(DEV_STAMP) ## Simulate faults over SEEDS=200 seeds, or replay one: SEED=7
	@$(BIN)/python -m tests.sim --seeds $(or $(SEEDS),200) $(if $(SEED),--seed $(SEED))

bench: $(DEV_STAMP) $(JARS_STAMP) ## Measure throughput and latency on a real Kafka; ARGS="..."
	@$(BIN)/python -m benchmarks.pipeline $(ARGS)

chaos: $(DEV_STAMP) $(JARS_STAMP) ## Kill workers KILLS=20 times and count the results; ARGS="..."
	@$(BIN)/python -m benchmarks.chaos --kills $(or $(KILLS),20) $(ARGS)
