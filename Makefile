# make demo: run the main job on a rendered world and write a report.   make test: run the tests.
# Both create .venv and install what they need. PYTHON picks the interpreter (3.10 to 3.12).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

.PHONY: demo test lint format clean

demo: $(VENV)/.runtime
	$(BIN)/progeo-demo --out demo --force

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.runtime: $(UV) pyproject.toml
	$(UV) pip install --quiet -e '.[graph]'
	touch $@

$(VENV)/.dev: $(UV) pyproject.toml
	$(UV) pip install --quiet -e '.[onnx,openvino,graph,bags,train,export]' -e ros_bridge/progeo_ros --group dev
	touch $@

# The real g2o, which tests of the pose graph solve with; without wheels for this machine they skip.
.venv-g2o: $(UV) pyproject.toml
	$(UV) venv --quiet --clear --python $(BIN)/python $@
	VIRTUAL_ENV=$(CURDIR)/$@ $(UV) pip install --quiet --group g2o

clean:
	rm -rf $(VENV) .venv-g2o demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
