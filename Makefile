# make demo and make test do everything from a fresh clone. Python >= 3.11, git and make are needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
BIN := .venv/bin
DEMO := demo

.PHONY: setup demo test lint types unit test-learning build clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Meta-train MAML on 2-D navigation, evaluate on unseen goals, write a report and an animation.
demo: setup
	@mkdir -p $(DEMO)
	$(BIN)/precocial train maml --env point-nav --out $(DEMO)/maml --overwrite
	$(BIN)/precocial train scratch --env point-nav --out $(DEMO)/scratch --overwrite
	$(BIN)/precocial eval $(DEMO)/maml --tasks 40 --reference $(DEMO)/scratch
	$(BIN)/precocial watch $(DEMO)/maml --updates 2 --out $(DEMO)/maml/before-after.gif
	$(BIN)/precocial report $(DEMO)/maml --out $(DEMO)/report.html
	@echo
	@echo "report:     $(CURDIR)/$(DEMO)/report.html"
	@echo "animation:  $(CURDIR)/$(DEMO)/maml/before-after.gif"
	@echo "the run:    $(CURDIR)/$(DEMO)/maml"

test: lint types unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests benchmarks examples docs README.md CHANGELOG.md CONTRIBUTING.md

types: setup
	$(BIN)/mypy

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

# Longer learning checks: tiny tasks with known ceilings, minutes each.
test-learning: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow

build: setup
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf .venv build dist $(DEMO) *.egg-info src/*.egg-info
