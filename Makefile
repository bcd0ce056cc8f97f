# Everything a new user needs: Python >= 3.11, pip and make. Both commands make .venv and install on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed

.PHONY: demo test check docs results slow bench gpu clean

demo: $(INSTALLED)  ## train on the packaged digits, print log p(x) with its error bar, save pictures under runs/demo
	$(BIN)/pyro-vae fit --config examples/digits.yaml --run runs/demo
	$(BIN)/pyro-vae evaluate runs/demo

test: $(INSTALLED)  ## the quick test suite
	$(BIN)/python -m pytest -n auto

docs: $(DOCS_INSTALLED)  ## the site in docs/_build/html: executes its notebooks, and fails at any warning
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

results: $(INSTALLED)  ## the tables and pictures of measured results in docs/, from the files in docs/results
	$(BIN)/python docs/make_results.py

slow: $(INSTALLED)  ## the heavier runs, on real data
	$(BIN)/python -m pytest -m slow

bench: $(INSTALLED)  ## speed beside peers, in hours; `make bench BENCH=--quick`, or any options of benchmarks/run.py
	$(BIN)/python benchmarks/run.py $(BENCH)

# GPU_PYTHON: where torch and the other packages are installed already, e.g. without a network; nothing is installed then.
gpu: $(if $(GPU_PYTHON),,$(INSTALLED))  ## checks and speed on a GPU, in under 8 minutes; `make gpu GPU='--only checks'`
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/gpu.py $(GPU)

check: $(INSTALLED)  ## lint, format, spelling and types, as continuous integration runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright --pythonpath $(BIN)/python

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pyro_vae needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[images,parquet,huggingface,anndata,sklearn,tensorboard,completion,onnx,hub,test,dev]'
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) docs/_build docs/reference/*/ .pytest_cache .ruff_cache benchmarks/.venvs benchmarks/.cache benchmarks/.quick
