# make demo        install, train on real digits, cross-check every model
# make test        install with the test extras, run all tests
# make test-core PYTHON=python3.13   the part without torch, with the newest jax and flax
# make lint        ruff and mypy
# make check-corpus  planted mistakes and right ports: how many are caught, located, named
# make bench       side-by-side timings
# GPU=1            takes the CUDA builds of jax and torch instead of the CPU builds

PYTHON ?= python3
WORKERS ?= 2
CORE := .venv-core-$(notdir $(PYTHON))
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# A user without a GPU should not download gigabytes of CUDA for torch: PyTorch's own index has a CPU build. It is asked
# for torch alone and without retries, so that a machine which can't reach it loses seconds and takes what pip finds.
ifeq ($(GPU),1)
TORCH := torch
JAX := jax[cuda13]
TORCH_INDEX :=
LOCK :=
KIND := -gpu
else
TORCH := torch==2.13.0
JAX := jax
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu --retries 0
LOCK := --constraint constraints.txt
KIND :=
endif

VENV := .venv$(KIND)
BIN := $(VENV)/bin

export PYTHONNOUSERSITE := 1

.PHONY: demo test test-core lint check-corpus bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed$(KIND)
	@echo "== Training MNISTClassifier on real handwritten digits, one compiled program per epoch, pmap over all devices"
	$(BIN)/fcjax train digits
	@echo "== Checking every model: PyTorch against Flax against NumPy"
	$(BIN)/python -m compare models

test: $(VENV)/.installed-test$(KIND)
	@echo "== Running all tests with $(WORKERS) workers"
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-core: $(CORE)/.installed
	@echo "== Running the tests that need no torch with $(PYTHON)"
	$(CORE)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/fcjax

lint: $(VENV)/.installed-dev$(KIND)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check-corpus: $(VENV)/.installed-test$(KIND)
	$(BIN)/python -m tests.corpus.run $(CORPUS)

bench: $(VENV)/.installed$(KIND)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-gpu .venv-core-* build *.egg-info

$(VENV)/bin/python:
	@echo "== Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: run make with PYTHON=python3.12, or another that is newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch$(KIND): $(VENV)/bin/python constraints.txt
	@echo "== Installing torch, alone and first"
	$(BIN)/python $(PIP_INSTALL) $(TORCH_INDEX) '$(TORCH)'
	@touch $@

$(VENV)/.installed$(KIND): $(VENV)/.torch$(KIND) pyproject.toml
	@echo "== Installing fcjax and compare"
	$(BIN)/python $(PIP_INSTALL) $(LOCK) '$(JAX)' --editable '.[compare]'
	@touch $@

$(VENV)/.installed-test$(KIND): $(VENV)/.installed$(KIND)
	@echo "== Installing what the tests need"
	$(BIN)/python $(PIP_INSTALL) $(LOCK) --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev$(KIND): $(VENV)/.installed-test$(KIND)
	$(BIN)/python $(PIP_INSTALL) $(LOCK) --editable '.[dev]'
	@touch $@

$(CORE)/.installed: pyproject.toml
	@echo "== Creating $(CORE) with $(PYTHON), the newest jax and flax, and no torch"
	$(PYTHON) -m venv $(CORE)
	$(CORE)/bin/python $(PIP_INSTALL) --upgrade --editable '.[test-core]'
	@touch $@
