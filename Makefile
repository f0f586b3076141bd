# Everything runs in .venv, which the first target that needs it makes. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-docs coverage test-gpu test-cluster lint bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the tested versions of everything and the package

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and "segrun needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d. Type: make install PYTHON=python3.12" % v)'
	@echo "Installing into .venv (several minutes and about 6 GB the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

demo: $(INSTALLED)  ## train DeepLabV3+ on drawn scenes and score it: 4 minutes on two cores
	$(BIN)/segrun model=deeplabv3plus loss=dice+focal

test: $(INSTALLED)  ## all tests but the slow ones: at most 10 minutes on two cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

test-slow: $(INSTALLED)  ## tests that take minutes each
	$(BIN)/python -m pytest -m slow

test-docs: $(INSTALLED)  ## every command of README and docs/, and the scripts in examples/
	$(BIN)/python -m pytest -m docs

coverage: $(INSTALLED)  ## which lines of seg_cli the tests reach, the slow ones too; 1 below 90%
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --cov --cov-report= --cov-fail-under=0
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m slow --durations 15 --cov --cov-append

test-gpu: $(INSTALLED)  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-cluster: $(INSTALLED)  ## tests on a SLURM of two nodes, see docs/clusters.md
	$(BIN)/python -m pytest -m slurm

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## ratios against peers, each measured in one run
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv and caches; outputs/ stays
	rm -rf .venv build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
