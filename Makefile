# make setup | demo | test | lint | bench | torture | docs | lock | dist | format.   VENV and PYTHON choose the environment and the interpreter.
PYTHON ?= python3
VENV ?= .venv
# Flags for installing torch alone, before anything else can ask for another build of it.
TORCH_FLAGS ?=
# The one result that make bench shall make anew.
ONLY ?=
# Anything here makes torture short.
SHORT ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep -i '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench torture cards gallery docs docs-serve docs-made lock lock-check audit-dependencies dist format clean

help:
	@echo "make setup    make the environment in $(VENV)"
	@echo "make demo     audit the embedded organism and write runs/demo/report.html"
	@echo "make test     lint, types, layers and the whole test suite"
	@echo "make lint     lint, types and layers only"
	@echo "make bench    make benchmarks/results anew and print the table: hours; ONLY=name makes one"
	@echo "make torture  try every promise of reliability and security, and write docs/reliability.md: hours; SHORT=1 for minutes"
	@echo "make cards    write docs/cards anew from the committed figures"
	@echo "make gallery  the study of docs/gallery: hours; goes on where it was stopped"
	@echo "make docs     build the site of the documentation into build/site; make docs-serve shows it while you write"
	@echo "make docs-made  make anew what of docs/ is made by running: the notebook and the pictures; minutes"
	@echo "make lock     write requirements.lock anew: versions with hashes; make lock-check compares it with constraints.txt"
	@echo "make audit-dependencies  look the locked versions up among known weaknesses; needs the network"
	@echo "make dist     build the archives of a release twice and compare them; see docs/releasing.md"
	@echo "make format   format the code"

setup: $(STAMP)

# The stamp is as new as what was installed from, so a second make setup does nothing.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; name one with PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_FLAGS) -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

demo: setup
	$(BIN)/temper audit --out runs/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# One thread a worker: two cores, two workers.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -rs

bench: setup
	$(BIN)/python benchmarks/bench.py $(if $(ONLY),--only $(ONLY))

# The long form also shows that every promise can be broken, and writes the page; the short one writes there only how long it took.
torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m torture $(if $(SHORT),--short,--mutations)

cards: setup
	$(BIN)/python benchmarks/claim_cards.py

# A study of its own, so that the pictures in the README can be made anew by whoever doubts them.
gallery: setup
	$(BIN)/temper run examples/gallery.yaml --out runs/gallery
	$(BIN)/temper card runs/gallery --out docs/gallery/card
	cp -R runs/gallery/summary.json runs/gallery/figures docs/gallery/

docs: setup
	$(BIN)/python -m mkdocs build
	@echo "The site: build/site/index.html"

docs-serve: setup
	$(BIN)/python -m mkdocs serve --watch src --watch tools/docs_site

docs-made: setup
	$(BIN)/python -m tools.docs_made

lock: setup
	TORCH_FLAGS="$(TORCH_FLAGS)" $(BIN)/python tools/lock.py

lock-check: setup
	$(BIN)/python tools/lock.py --check

# Its data are on the network. Where they cannot be reached this says so and is no failure; a weakness that is found is one.
audit-dependencies: setup
	$(BIN)/python tools/audit_dependencies.py

dist: setup
	$(BIN)/python tools/build_twice.py dist

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
