# make bench    the paper's table at mini size in results/mini-quick (about ten minutes on two cores, install included)
# make test     every test, the fast ones first
# make lint     ruff, import-linter and mypy
# make notebooks runs the notebooks again, in place
# Another Python: make bench PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
BENCH_OUT ?= results/mini-quick
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Everything that is needed is in the repository or in the package registry.
export HF_HUB_OFFLINE = 1

.PHONY: venv bench test lint notebooks clean
.DEFAULT_GOAL := bench

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bdkit needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,notebooks]'
	touch $(STAMP)

bench: $(STAMP)
	$(BIN)/bdkit bench mini-quick --out $(BENCH_OUT)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

notebooks: $(STAMP)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.startup_timeout=300 \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
