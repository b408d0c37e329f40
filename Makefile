# `make demo` and `make test` do all their own set-up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := outputs/demo

.PHONY: demo test lint clean

$(BIN)/rs-seg: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(BIN)/rs-seg
	$(BIN)/rs-seg demo
	$(BIN)/rs-seg run --aoi data_catalog/demo/region.geojson --classes road,water --out $(RUN)
	$(BIN)/rs-seg demo --score $(RUN)

test: $(BIN)/rs-seg
	$(BIN)/python -m pytest

lint: $(BIN)/rs-seg
	$(BIN)/ruff check .
	$(BIN)/mypy

# Results, catalog and trained models stay: `rs-seg clean` makes room among runs.
clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
