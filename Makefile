# `make up` and `make test` do everything from a bare clone; the other targets are their steps.
#
#   make up DATA=my_customers.csv SCHEMA=my_schema.yaml     on your own customers

PYTHON ?= python3
STATE := .churn-saver
SCHEMA ?= configs/schemas/default.yaml
DATA ?= $(STATE)/data/simulated/customers.csv
NAME := $(basename $(notdir $(SCHEMA)))
CONTACTS := $(STATE)/data/simulated/contacts.csv
CHECKPOINTS := $(STATE)/checkpoints/$(NAME)
MODEL := $(STATE)/models/.prepared

export CHURN_SAVER_CHECKPOINTS := $(CHECKPOINTS)
export HF_HUB_OFFLINE := 1
# Two cores: more threads than this make the small models slower, not faster.
export OMP_NUM_THREADS ?= 2

RUN := .venv/bin/churn-saver
SETUP := .venv/.setup

.DEFAULT_GOAL := help
.PHONY: help setup up down test test-stack lint protos bench prepare-data train-risk train-accept train-ppo serve clean
.DELETE_ON_ERROR:

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP)  ## the environment in .venv, with locked versions

$(SETUP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.version.split()[0]} found; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint requirements.lock torch
	.venv/bin/pip install --quiet --constraint requirements.lock --editable '.[gateway,decision,generator,shield,trainers,cli,dev]'
	@touch $@

up: serve  ## the whole system on this machine, and 20 customers through it
	$(RUN) retain --csv $(DATA) --schema $(SCHEMA) --limit 20

serve: $(MODEL) $(CHECKPOINTS)/policy/manifest.json  ## redis and the four services; trains what is missing
	$(RUN) up

down: | $(SETUP)  ## stop everything that `up` started
	$(RUN) down

# -- data, models, training ------------------------------------------------------------------------

prepare-data: $(DATA)  ## the customers: simulated unless DATA names a CSV

$(STATE)/data/simulated/customers.csv: | $(SETUP)
	$(RUN) data simulate --out $(@D)

$(CONTACTS): $(STATE)/data/simulated/customers.csv  # written together

$(MODEL): trainers/language_model/prepare.py configs/serve.yaml | $(SETUP)
	$(RUN) model prepare
	@touch $@

train-risk: $(CHECKPOINTS)/risk/manifest.json  ## the risk model and the gateway's scorecard
train-accept: $(CHECKPOINTS)/acceptance/manifest.json  ## the acceptance model
train-ppo: $(CHECKPOINTS)/policy/manifest.json  ## the policy

$(CHECKPOINTS)/risk/manifest.json: $(DATA) $(SCHEMA) | $(SETUP)
	$(RUN) train risk --data $(DATA) --schema $(SCHEMA) --out $(@D)

$(CHECKPOINTS)/acceptance/manifest.json: $(CONTACTS) configs/schemas/contacts.yaml configs/env.yaml | $(SETUP)
	$(RUN) train accept --data $(CONTACTS) --schema configs/schemas/contacts.yaml --out $(@D)

$(CHECKPOINTS)/policy/manifest.json: $(CHECKPOINTS)/risk/manifest.json $(CHECKPOINTS)/acceptance/manifest.json configs/env.yaml configs/ppo.yaml
	$(RUN) train ppo --quick --data $(DATA) --schema $(SCHEMA) --risk $(CHECKPOINTS)/risk --accept $(CHECKPOINTS)/acceptance --out $(@D)

# -- checks ----------------------------------------------------------------------------------------

lint: | $(SETUP)  ## ruff, mypy, import-linter, buf, and stubs that match their protos
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/buf lint
	.venv/bin/python tools/generate_stubs.py --check

test: lint  ## every check that takes seconds; no stack needed
	.venv/bin/pytest -m "not stack"

test-stack: $(MODEL) $(CHECKPOINTS)/policy/manifest.json  ## the slow suites, against real processes
	.venv/bin/pytest -m stack

bench: $(MODEL) $(CHECKPOINTS)/policy/manifest.json  ## latency, saturation, kill switch and failures under load, into reports/
	.venv/bin/python -m tests.load.bench
	.venv/bin/python -m tests.load.chaos

protos: | $(SETUP)  ## generate the gRPC stubs
	.venv/bin/python tools/generate_stubs.py

clean: down  ## forget data, checkpoints and state; keep .venv
	rm -rf $(STATE)
