# deskgrid: one command each. `make demo` and `make test` need nothing but git, make and Python 3.11 on Debian 12 or 13
# or Ubuntu 24.04; what else they need they install, asking for sudo only when the caller is not root.

PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
ROOT := $(filter 0,$(shell id -u))
# Root's agents run as an account that may not look into root's home: so root's environment lies in /var/cache, with a copy.
VENV ?= $(if $(ROOT),/var/cache/deskgrid/env-$(shell pwd | cksum | cut -d ' ' -f 1),.venv)
BIN := $(VENV)/bin
INSTALL := $(if $(ROOT),--force-reinstall .,-e .)
# What is installed is what the lock names, and nothing else decides: no resolving, no building (which would fetch build
# tools), no file whose hash is not here.
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-deps
LOCKED := $(PIP) --require-hashes --only-binary :all:
SOURCES := pyproject.toml $(shell find src -name '*.py' -o -name '*.sh' -o -name '*.html')

# Whoever sets this has each run of the tests rewrite their assertions anew, which is half of `make check`.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long check bench soak setup docs clean lock
.DEFAULT_GOAL := check

demo: setup ## the main job on real parts: HTCondor, QEMU, a Linux guest, HTTPS
	$(BIN)/deskgrid demo

test: setup $(VENV)/.tests ## everything: lint, types, fast tests, real parts, the demo
	tools/system-packages --tests
	tools/system-packages --bench
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n 4 --cov --cov-report=term -m "not real" tests
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "real and not long and not paired" tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "paired and not long" tests

test-long: setup $(VENV)/.tests ## what takes minutes for one answer
	tools/system-packages --tests
	tools/system-packages --bench
	$(BIN)/pytest -m long tests

check: lint ## lint, types, fast tests: a minute
	HYPOTHESIS_PROFILE=brief $(BIN)/pytest -n 4 -m "not real and not slow" tests

.PHONY: lint
lint: $(VENV)/.installed $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup $(VENV)/.tests ## figures to build/bench.json, and as a table
	tools/system-packages --bench
	$(BIN)/python -m bench

soak: setup $(VENV)/.tests ## network cuts and many kills, for hours; interrupted, it goes on where it was
	tools/system-packages --bench
	$(BIN)/python -m bench.soak

setup: $(VENV)/.system $(VENV)/.installed ## system packages and Python environment: what running needs

$(VENV)/.system: tools/system-packages
	tools/system-packages
	mkdir -p $(VENV) && touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	$(PIP) --no-index --no-build-isolation $(INSTALL)
	touch $@

$(VENV)/.dependencies: requirements.txt
	$(PYTHON) -m venv $(VENV) || { tools/system-packages python3-venv && $(PYTHON) -m venv $(VENV); }
	$(LOCKED) -r requirements.txt
	touch $@

$(VENV)/.tests: requirements-tests.txt $(VENV)/.dependencies
	$(LOCKED) -r requirements-tests.txt
	touch $@

docs: $(VENV)/.installed ## renew what the manual draws from the code
	$(BIN)/python tools/renew-docs

COMPILE := uv pip compile pyproject.toml --universal --generate-hashes --no-header --python-version 3.11 -q
lock: ## renew both sets of the lock: what running needs, and what tests need beside it (needs uv)
	$(COMPILE) --extra x11 --extra tokens --extra build -o requirements.txt
	$(COMPILE) --extra dev -c requirements.txt -o requirements-tests.txt \
	  $$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' requirements.txt)

clean: ## what was built here; caches stay
	rm -rf build $(VENV)
