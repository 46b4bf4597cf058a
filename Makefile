# `make demo` and `make test` do all set-up themselves, once; later runs need no network.
#   PYTHON=python3.12     interpreter of the toolchain (3.10 to 3.13)
#   LAVA_BASE=python3.10  interpreter that Lava's environment is made with (found by itself when left out)
#   LAVA=no               do without Lava; its tests are then skipped, and say so
#   FRAMEWORKS=no         the same for the frameworks that networks are imported from

PYTHON ?= python3
LAVA_BASE ?=
LAVA ?= yes
FRAMEWORKS ?= yes
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LAVA_VENV := .venv-lava
SHIM_VENV := .venv-lava-shim
FRAMEWORK_FOLDERS := .venv-frameworks
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONSTRAINTS := .constraints/toolchain.txt

ifeq ($(LAVA),yes)
LAVA_READY := lava
TEST_READY := lava lava-shim
TEST_ENVIRONMENT := SNNC_REQUIRE_LAVA=1
DEMO_OPTIONS :=
else
LAVA_READY :=
TEST_READY :=
TEST_ENVIRONMENT :=
DEMO_OPTIONS := --without-lava
endif

ifeq ($(FRAMEWORKS),yes)
TEST_READY += frameworks
TEST_ENVIRONMENT += SNNC_REQUIRE_FRAMEWORKS=1
endif

.PHONY: help setup lava lava-shim frameworks demo lint test clean

help:
	@echo "make demo    train, map, report, simulate and verify a small network (about a minute after set-up)"
	@echo "make test    all checks and tests"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make lava    set up Lava's environment alone"
	@echo "make frameworks  install what tests of imports compare with"
	@echo "make clean   remove the environments and caches"

setup: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: snnc needs Python 3.10 to 3.13; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "making the toolchain's environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@# torch first and alone, so that nothing else decides which build of it is taken.
	@$(PIP) install --constraint $(CONSTRAINTS) torch setuptools
	@$(PIP) install --constraint $(CONSTRAINTS) --no-build-isolation --editable '.[train,plot,test]'
	@touch $@

lava:
	@$(PYTHON) -m toolchain.setup_lava --target $(CURDIR)/$(LAVA_VENV) $(if $(LAVA_BASE),--python $(LAVA_BASE))

# The other way to run Lava, on 3.11 or 3.12 with the shim, is tested wherever one of them is there.
lava-shim:
	@$(PYTHON) -m toolchain.setup_lava --target $(CURDIR)/$(SHIM_VENV) --versions 3.11 3.12 || \
	  echo "so Lava past its version bound is not tested here" >&2

# Each in a folder of its own, without what it depends on: two versions of one framework are compared.
frameworks: $(READY)
	@$(BIN)/python tests/frameworks/setup_frameworks.py

demo: $(READY) $(LAVA_READY)
	@rm -rf snnc-demo
	@$(BIN)/snnc demo $(DEMO_OPTIONS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread each: two workers whose libraries start two threads each stand in each other's way.
test: $(READY) $(TEST_READY) lint
	OMP_NUM_THREADS=1 $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

clean:
	rm -rf $(VENV) $(LAVA_VENV) $(SHIM_VENV) $(FRAMEWORK_FOLDERS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
