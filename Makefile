# `make serve` and `make test` set up everything they need in .venv, and reuse it while nothing has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ebbtide-ready
ARTIFACTS := artifacts
QUALITY_VENV := $(ARTIFACTS)/quality-venv
SERVING_VENV := $(ARTIFACTS)/serving-venv
BROWSER_VENV := $(ARTIFACTS)/browser-venv
KSERVE_VENV := $(ARTIFACTS)/kserve-venv
SCHEMATHESIS_VENV := $(ARTIFACTS)/schemathesis-venv
DATA := examples/movielens-small
# A user of the shipped data with ten years of history and a last session, shown by `make demo` and `make serve`.
USER_ID ?= 648
# Of `make test-random`: the one it printed finds the same failures again.
SEED ?= $(shell date +%s)
# Of `make test`: one more than there are cores, as many tests wait for a server.
TEST_WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')
# Of `make serve`; `make demo` uses free ones.
GRPC_PORT ?= 8001
HTTP_PORT ?= 8000
METRICS_PORT ?= 8002
STUDIO_PORT ?= 9003
TRAIN_DATA := --events $(DATA)/ratings.parquet --user-col userId --item-col movieId --time-col timestamp \
	--catalog $(DATA)/movies.parquet --text-template "{title} ({year}). {genres}" --title-template "{title} ({year})"
# The store of the users' states is artifacts/repository.state, unless EBBTIDE_STATE names another one.
BACKFILL := $(BIN)/ebbtide backfill $(ARTIFACTS)/repository --bundle $(ARTIFACTS)/bundle
SERVE := $(BIN)/ebbtide serve $(ARTIFACTS)/repository --bundle $(ARTIFACTS)/bundle --show-user $(USER_ID) --show-change
SOURCES := interest store data train export client serve ops cli
PROGRAMS := $(SOURCES) tests benchmarks scripts model_repository

.PHONY: help wheel setup serve free-ports demo test test-slow test-random check lint types imports format stubs docs tour bench-quality bench-training bench-export bench-client bench-serving bench-head bench-state bench-batch bench-living bench-slate bench-soak bench-replay bench-responsible bench-loadtest bench-tune bench-docs clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	@echo "==> setting up $(VENV) (3 to 10 minutes the first time; pip is quiet meanwhile)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Python 3.10 to 3.12 is needed (the embedded Triton's Python backend); try: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(ARTIFACTS)/bundle/bundle.json: $(wildcard train/ebbtide/train/*.py train/ebbtide/train/*/*.py interest/ebbtide/interest/*.py) | $(READY)
	@echo "==> training on the shipped data"
	@$(BIN)/ebbtide train $(TRAIN_DATA) --out $(ARTIFACTS)/bundle
	@touch $@

$(ARTIFACTS)/repository/recommend/config.pbtxt: $(ARTIFACTS)/bundle/bundle.json $(wildcard export/ebbtide/export/*.py export/ebbtide/export/*/*.py model_repository/*/*.py) | $(READY)
	@echo "==> exporting the model repository"
	@rm -rf $(ARTIFACTS)/repository.state
	@$(BIN)/ebbtide export $(ARTIFACTS)/bundle --out $(ARTIFACTS)/repository \
		--attributes $(DATA)/movies.parquet --attribute-col genres
	@$(BIN)/ebbtide check $(ARTIFACTS)/repository
	@touch $@

wheel: $(READY) ## Build the wheel that `pip install` takes, in dist/
	@$(BIN)/python -m hatchling build --target wheel --directory dist

free-ports:
	@$(PYTHON) scripts/require_free_ports.py GRPC_PORT=$(GRPC_PORT) HTTP_PORT=$(HTTP_PORT) \
		METRICS_PORT=$(METRICS_PORT) STUDIO_PORT=$(STUDIO_PORT)

serve: free-ports $(ARTIFACTS)/repository/recommend/config.pbtxt ## Train, export, build states, start Triton here, recommend, serve until Ctrl-C
	@echo "==> building the states of the users from the shipped ratings"
	@$(BACKFILL)
	@echo "==> starting Triton on this machine"
	@$(SERVE) --grpc-port $(GRPC_PORT) --http-port $(HTTP_PORT) --metrics-port $(METRICS_PORT) --studio-port $(STUDIO_PORT)

demo: $(ARTIFACTS)/repository/recommend/config.pbtxt ## The same, and exit
	@echo "==> building the states of the users from the shipped ratings"
	@$(BACKFILL)
	@echo "==> starting Triton on this machine"
	@$(SERVE) --once

test: $(READY) ## All checks and tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync check
	@$(BIN)/pytest --numprocesses $(TEST_WORKERS) --no-loadscope-reorder

test-slow: $(READY) $(KSERVE_VENV)/.ready $(SCHEMATHESIS_VENV)/.ready $(BROWSER_VENV)/.ready $(ARTIFACTS)/repository/recommend/config.pbtxt ## The tests that `make test` leaves out: Node.js, KServe's client, Chromium, minutes
	@$(BIN)/pytest -m slow

test-random: $(READY) ## Property tests on new random examples (SEED=n: those of an earlier run)
	@echo "==> random examples of SEED=$(SEED)"
	@$(BIN)/pytest -m 'hypothesis and not slow' --hypothesis-profile=random --hypothesis-seed=$(SEED)

$(KSERVE_VENV)/.ready: tests/client/requirements-kserve.txt | $(READY)
	@echo "==> setting up KServe's client in $(KSERVE_VENV)"
	@$(BIN)/python -m venv $(KSERVE_VENV)
	@$(KSERVE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(BROWSER_VENV)/.ready: tests/studio/requirements-browser.txt | $(READY)
	@echo "==> setting up Playwright in $(BROWSER_VENV)"
	@$(BIN)/python -m venv $(BROWSER_VENV)
	@$(BROWSER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(SCHEMATHESIS_VENV)/.ready: tests/client/requirements-schemathesis.txt | $(READY)
	@echo "==> setting up schemathesis in $(SCHEMATHESIS_VENV)"
	@$(BIN)/python -m venv $(SCHEMATHESIS_VENV)
	@$(SCHEMATHESIS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

check: lint types imports docs ## Lint, format, types, direction of imports, documentation

lint: $(READY)
	@$(BIN)/ruff check $(PROGRAMS)
	@$(BIN)/ruff format --check $(PROGRAMS)

types: $(READY)
	@$(BIN)/mypy $(foreach source,$(SOURCES),$(source)/ebbtide) $(foreach model,adaptive_weights candidate_head slate_composer explainer observer interest_reader forgetter item_keeper,model_repository/$(model)) benchmarks scripts
	@MYPYPATH=model_repository/tokenizer $(BIN)/mypy model_repository/tokenizer
	@MYPYPATH=model_repository/scoring_head $(BIN)/mypy model_repository/scoring_head

imports: $(READY)
	@$(BIN)/lint-imports

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix $(PROGRAMS)
	@$(BIN)/ruff format $(PROGRAMS)

stubs: $(READY) ## Generate the gRPC stubs and the OpenAPI document from proto/
	@$(BIN)/python scripts/generate_stubs.py
	@$(BIN)/python scripts/generate_openapi.py

$(QUALITY_VENV)/.ready: benchmarks/quality/requirements.txt | $(READY)
	@echo "==> setting up the library baselines in $(QUALITY_VENV)"
	@$(BIN)/python -m venv $(QUALITY_VENV)
	@$(QUALITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-quality: $(READY) $(QUALITY_VENV)/.ready ## Quality of Ebbtide, its ablations and common recommenders (hours; QUICK=1: minutes)
	@$(BIN)/python -m benchmarks.quality --library $(QUALITY_VENV)/bin/python $(if $(QUICK),--quick)

bench-training: $(READY) $(QUALITY_VENV)/.ready ## Training speed of Ebbtide and SASRec
	@$(BIN)/python -m benchmarks.training --library $(QUALITY_VENV)/bin/python

bench-export: $(READY) ## Every variant of the exported encoder: fidelity, speed, size (about 8 minutes with training; BUNDLE=folder: 4)
	@$(BIN)/python benchmarks/export.py $(if $(BUNDLE),--bundle $(BUNDLE))

bench-state: $(ARTIFACTS)/repository/recommend/config.pbtxt ## Users' states: asked by id, observed, backfilled (15 minutes; QUICK=1: 4)
	@$(BIN)/python -m benchmarks.state $(if $(QUICK),--quick)

bench-batch: $(ARTIFACTS)/repository/recommend/config.pbtxt ## Lists for all users: rate, kill and resume, workers of Ray (10 minutes; USERS=n)
	@$(BIN)/python -m benchmarks.batch $(if $(USERS),--users $(USERS))

bench-living: $(ARTIFACTS)/repository/recommend/config.pbtxt ## How soon two servers show new films, a trend, stock, at 50 requests a second (5 minutes)
	@$(BIN)/python -m benchmarks.living_catalog

bench-slate: $(ARTIFACTS)/bundle/bundle.json ## What a slate costs beside a do-nothing third step (2 minutes)
	@$(BIN)/python -m benchmarks.slate

$(ARTIFACTS)/held-out/bundle.json: | $(READY)
	@$(BIN)/ebbtide train $(TRAIN_DATA) --holdout time:0.2 --out $(ARTIFACTS)/held-out $(if $(EPOCHS),--epochs $(EPOCHS))

bench-responsible: $(ARTIFACTS)/held-out/bundle.json ## What diversity, caps and exposure give and cost, by `ebbtide audit` on the held-out log (5 minutes, and a training)
	@$(BIN)/python -m benchmarks.responsible

bench-soak: $(ARTIFACTS)/repository/recommend/config.pbtxt ## An hour of load while versions and items change: failed calls, growth (MINUTES=n)
	@$(BIN)/python -m benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES))

bench-replay: $(ARTIFACTS)/held-out/bundle.json ## A held-out log replayed through a server's states, beside ebbtide evaluate (minutes, and a training; EPOCHS=1: a short one)
	@$(BIN)/python -m benchmarks.replay

bench-head: $(READY) ## Precisions of the scoring head by size of the catalog (minutes)
	@$(BIN)/python -m benchmarks.export_head

bench-loadtest: $(ARTIFACTS)/repository/recommend/config.pbtxt ## The load generator beside perf_analyzer at equal concurrency (minutes)
	@$(BIN)/python -m benchmarks.loadtest

bench-tune: $(ARTIFACTS)/repository/recommend/config.pbtxt ## Three runs of `ebbtide tune` on this machine (half an hour; MINUTES=n of each)
	@$(BIN)/python -m benchmarks.tune $(if $(MINUTES),--minutes $(MINUTES))

bench-docs: $(READY) ## Build docs/benchmarks.md and the numbers of docs/capacity.md and docs/responsible.md from benchmarks/results
	@$(BIN)/python -m benchmarks.page

bench-client: $(ARTIFACTS)/repository/recommend/config.pbtxt ## What SDK and gateway cost over tritonclient and perf_analyzer (a few minutes)
	@$(BIN)/python -m benchmarks.client

$(SERVING_VENV)/.ready: benchmarks/serving/requirements.txt | $(READY)
	@echo "==> setting up the other encoders in $(SERVING_VENV)"
	@$(BIN)/python -m venv $(SERVING_VENV)
	@$(SERVING_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-serving: $(ARTIFACTS)/bundle/bundle.json $(SERVING_VENV)/.ready ## Serving compared with a do-nothing server, peers and the machine (tens of minutes; QUICK=1: under 8)
	@$(BIN)/python -m benchmarks.serving $(if $(QUICK),--quick) $(if $(BUNDLE),--bundle $(BUNDLE))

tour: $(BROWSER_VENV)/.ready $(ARTIFACTS)/repository/recommend/config.pbtxt ## Make the pictures of docs/tour.md anew, by the test of the page in Chromium
	@$(BIN)/pytest -m slow tests/studio/test_studio_page.py
	@cp $(ARTIFACTS)/studio-pictures/tour-*.jpg docs/tour/

docs: $(READY) ## Build the documentation as a site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "==> artifacts/site/index.html"

clean: ## Remove what was built; .venv stays
	@rm -rf $(ARTIFACTS) dist build
