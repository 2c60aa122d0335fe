# make setup | demo | test | numerics | app | notebooks | docs | bench: each makes .venv and what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL := $(if $(shell command -v uv),uv pip install --python $(BIN)/python,$(PIP)) -c requirements.lock

.PHONY: setup demo test numerics app notebooks docs bench clean

setup: .venv/base

.venv/base: pyproject.toml setup.py requirements.lock
	@test -e $@ || echo "Installing PyTorch with CUDA and the rest into .venv: a download of 3.2 GB, 6.1 GB on disk," \
	  "2 to 4 minutes on a fast connection. For CPUs only there is a smaller one: docs/INSTALL.md"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@
	@echo "Installed. To type gcl in this shell: source $(BIN)/activate"

.venv/%: .venv/base
	$(INSTALL) -e '.[$*]'
	touch $@

demo: .venv/base
	$(BIN)/gcl demo
	@command -v gcl > /dev/null || echo "gcl is not on the PATH yet: source $(BIN)/activate"

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

numerics: .venv/dev  # what rounding could change, as on a processor without AVX
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default $(BIN)/pytest -n auto \
	  tests/test_losses.py tests/test_tiled.py tests/test_search.py tests/test_stages.py tests/test_rerank.py

app: .venv/app .venv/map
	$(BIN)/gcl app

notebooks: .venv/notebooks
	$(BIN)/python notebooks/build.py

docs: .venv/docs
	$(BIN)/python docs/build.py

bench: .venv/bench
	for script in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv
