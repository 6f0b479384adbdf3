# `make demo` and `make test` set up everything themselves, in .venv; a second run installs nothing.
# Overridable: PYTHON=python3.12, VENV=path, UV= (empty: use pip even where uv is installed), PYTEST_ARGS="-k name".

PYTHON ?= python3
VENV ?= .venv
UV ?= $(shell command -v uv 2>/dev/null)
PYTEST_ARGS ?=

BIN := $(VENV)/bin
SEES_GPU = "$(BIN)/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
STAMP := $(VENV)/.segrobust-installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu docs lint format clean

help:
	@echo "make demo     train a standard and a robust segmenter on synthetic scenes, attack both, write a report"
	@echo "make test     ruff and the test suite; then test-gpu where torch sees a GPU"
	@echo "make test-gpu the tests that need a GPU, alone (one GPU, a few minutes)"
	@echo "make docs     the documentation, into docs/_build/html"
	@echo "make lint     ruff alone; make format: let ruff correct what it can"
	@echo "make clean    remove .venv and caches; work_dirs stays"

demo: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE "$(BIN)/segrobust" demo

# Two single-threaded workers: on two cores quicker than one process with two threads (tests are many and small).
# They and what they start see no GPU: they test the CPU's numbers, and several processes without a GPU for each.
test: lint
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	  "$(BIN)/python" -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)
	@if $(SEES_GPU); then $(MAKE) --no-print-directory test-gpu; \
	else echo "no GPU tests: torch sees no GPU here (make test-gpu runs them where it does)"; fi

# One process, which has the GPU to itself. Status 5: PYTEST_ARGS chose none of these tests.
test-gpu: $(STAMP)
	SEGROBUST_TEST_GPU=1 "$(BIN)/python" -m pytest tests/gpu $(PYTEST_ARGS)$(if $(strip $(PYTEST_ARGS)), || test $$? -eq 5)

# As strict as it gets without the network: any warning fails, names that lead nowhere are warnings.
docs: $(STAMP)
	OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= "$(BIN)/python" -m sphinx -q -W --keep-going -n -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(STAMP)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

format: $(STAMP)
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

clean:
	rm -rf "$(VENV)" build dist docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis .dist_test
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One resolver call for everything, so that torch and torchvision come from the same index and fit each other.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "segrobust needs Python >= 3.10, and '$(PYTHON)' is not one; name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(VENV): once, several GB with the CUDA libraries of torch on Linux"
ifneq ($(strip $(UV)),)
	"$(UV)" venv --quiet --allow-existing --python "$(PYTHON)" "$(VENV)"
	"$(UV)" pip install --python "$(BIN)/python" --constraint constraints.txt --editable ".[dev]"
else
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
endif
	@touch "$@"
