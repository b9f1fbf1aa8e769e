.DEFAULT_GOAL := help
.PHONY: help setup demo test simulate chaos check bench crds

# The tests start hundreds of processes: without bytecode, each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
UV := .venv/bin/uv

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## Make .venv with everything pinned in uv.lock; .venv/bin/gatepass is the command.

.venv/.ready: uv.lock pyproject.toml
	@test -x $(UV) || { $(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet uv; }
	@$(UV) sync --quiet --frozen --all-extras --inexact
	@touch $@

demo: setup ## The main job, narrated, on a real API server and an EC2 emulator.
	.venv/bin/gatepass demo

test: setup ## Every test, on real parts; a sandbox on each processor, as more would cost the operators in them their time.
	.venv/bin/python -m tests.programs
	.venv/bin/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

SEEDS ?= 2000

simulate: setup ## The engine under SEEDS simulated runs full of faults (2000), each replayable by its number.
	PYTHONPATH=.:operator .venv/bin/python -m tests.simulation --seeds $(SEEDS)

chaos: setup ## The promise under fire, at length: CHAOS="--seed 7" for the same again; each round prints how to play it alone.
	.venv/bin/python -m tests.chaos $(CHAOS)

check: setup ## Format, lint, types, import layers, generated files.
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest -q tests/shape

bench: setup ## The figures, as tables and as JSON files in bench/: a quarter of an hour; fails in the end if a bar was missed.
	@missed=0; for each in bench bench.expiry bench.size bench.rest bench.sources bench.ends bench.waiting; do \
	  .venv/bin/python -m $$each || missed=1; \
	done; exit $$missed

crds: setup ## Write crds/ and the chart's copies from the models.
	.venv/bin/gatepass crds --directory crds
	.venv/bin/gatepass manifests --chart-files charts/gatepass/files
