# Needs python3 (3.11 to 3.13) and make; everything else is installed into .venv on the first call.
VENV ?= .venv
BIN := $(VENV)/bin
# An environment whose Python is gone is no installation.
$(shell test -x $(BIN)/python || rm -f $(VENV)/.installed-*)

.DEFAULT_GOAL := help
.PHONY: help demo smoke train test chaos fuzz audit check results measure bench bench-scale overload soak performance errors reference docs \
	given-flickr8k clean

help: ## Show this list
	@echo "make TARGET [NAME=VALUE ...]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.installed-serve ## Search photos in a browser [PHOTOS=DIR | FLICKR8K=DIR] [PORT=8000] [DEMO_PORT=7860]
	@exec $(BIN)/diptych up \
		$(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(FLICKR8K),--flickr8k "$(FLICKR8K)") \
		$(if $(PORT),--port $(PORT)) $(if $(DEMO_PORT),--demo-port $(DEMO_PORT))

smoke: $(VENV)/.installed-serve ## Start everything in a temporary place, ask it, stop it, and see that nothing is left
	@exec $(BIN)/diptych smoke

train: given-flickr8k $(VENV)/.installed-train ## Train the shipped model anew, from photos to artifact: FLICKR8K=DIR [SEED=0] [OUT=runs/flickr8k-0]
	@PATH="$(abspath $(BIN)):$$PATH" SEED=$(or $(SEED),0) \
		exec training/recipes/flickr8k.sh "$(FLICKR8K)" $(OUT)

test: $(VENV)/.installed-dev ## Run all tests [FLICKR8K_ROOT=DIR for those on the real data] [ARGS=...]
	@exec $(BIN)/python -m pytest $(ARGS)

chaos: $(VENV)/.installed-dev ## Kill the index service while it is written to, and count what is lost [KILLS=500] [JSON=docs/performance/chaos.json]
	@exec $(BIN)/python -m tests.support.kills --kills $(or $(KILLS),500) --json "$(or $(JSON),docs/performance/chaos.json)"

fuzz: $(VENV)/.installed-dev ## Throw requests at every service and see that it keeps to its description [EXAMPLES=500] [SEED=0]
	@exec $(BIN)/python -m tests.support.fuzz --examples $(or $(EXAMPLES),500) --seed $(or $(SEED),0)

audit: $(VENV)/.installed-dev ## Look up all locked packages among known vulnerabilities (asks an online service)
	@test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r deploy/requirements/dev.txt

check: $(VENV)/.installed-dev ## Formatting, lint, types and import boundaries
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

results: $(VENV)/.installed-serve ## Write docs/results.md and its plots from docs/results/*.json
	@exec $(BIN)/diptych measure report docs/results --model artifacts/flickr8k

errors: $(VENV)/.installed-serve ## Write docs/errors.md from the catalogue of problems
	@$(BIN)/python -c "from shared import problems; print(problems.page(), end='')" >docs/errors.md

measure: given-flickr8k $(VENV)/.installed-dev ## Measure the shipped model and write docs/results/*.json: FLICKR8K=DIR
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec training/recipes/measure.sh "$(FLICKR8K)"

reference: $(VENV)/.installed-serve ## Write docs/reference/*.md from the code
	@exec $(BIN)/python -m diptych.reference

docs: $(VENV)/.installed-docs ## Build the documentation's site into site/; a broken link fails
	@exec $(BIN)/zensical build --strict --clean

bench: $(VENV)/.installed-dev ## Measure the speed of everything, side by side with others, in about half an hour [PARTS=...] [SECONDS=4]
	@exec $(BIN)/python -m benchmarks $(PARTS) $(if $(SECONDS),--seconds $(SECONDS))
	@exec $(BIN)/python -m benchmarks page

bench-scale: $(VENV)/.installed-dev ## Measure every kind of index at size: about 20 GB of disk a million [ITEMS=1000000] [DATA=DIR] [WORK=DIR]
	@exec $(BIN)/python -m benchmarks scale page --items $(or $(ITEMS),1000000) \
		$(if $(DATA),--data "$(DATA)") $(if $(WORK),--work "$(WORK)")

overload: $(VENV)/.installed-dev ## Ask for ten times what can be answered, for a minute each
	@exec $(BIN)/python -m benchmarks overload page

soak: $(VENV)/.installed-dev ## Full load for minutes: does memory grow? [MINUTES=15]
	@exec $(BIN)/python -m benchmarks soak page --minutes $(or $(MINUTES),15)

performance: $(VENV)/.installed-dev ## Write docs/performance.md and its plots from docs/performance/*.json
	@exec $(BIN)/python -m benchmarks page

given-flickr8k:
	@test -n "$(FLICKR8K)" || { echo "say where Flickr8k is: make $(MAKECMDGOALS) FLICKR8K=DIR"; exit 1; }

clean: ## Delete what was installed and cached; what was published and indexed (.diptych) stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis test-output site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The development install is the serving one and more.
$(VENV)/.installed-%: deploy/requirements/%.txt deploy/install.sh pyproject.toml
	@deploy/install.sh $(VENV) $*
