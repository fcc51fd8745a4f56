# Everything happens in .venv; `make demo` and `make test` set it up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RKNN_VENV := .cache/rknn-venv
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test browser bundle chaos test-rknn bench bench-placement lint format proto constraints dev-scheduler dev-worker dev-api dev-client clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## a whole cluster of emulated boards labels pictures, in under a minute
	@$(BIN)/edgesched demo

test: $(VENV)/.ready-dev browser ## formatting, lint, types, generated code, all tests
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends chromium >/dev/null

browser: ## Chromium for the tests of the dashboard: installed where it is missing, this is root and apt-get is there
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  echo "installing Chromium for the tests of the dashboard (once)" && \
	  { $(APT_INSTALL) || { apt-get update -qq && $(APT_INSTALL); }; }; } || \
	  echo "no Chromium here, so the tests of the dashboard are skipped; as root: apt-get install chromium"

test-rknn: $(RKNN_VENV)/.ready ## the rknn backend against Rockchip's simulator (x86_64 or aarch64; 1.5 GB, installed once)
	$(RKNN_VENV)/bin/python -m pytest -c tests/rknn/pytest.ini --rootdir . tests/rknn

bench: $(VENV)/.ready ## what the scheduler costs, beside a bare loop (some minutes; BENCH="--soak", BENCH=--help)
	GRPC_VERBOSITY=NONE GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m bench.run $(BENCH)

bench-placement: $(VENV)/.ready ## measured against target: how well devices are picked (a quarter of an hour)
	$(BIN)/python -m bench.placement

chaos: $(VENV)/.ready-dev ## faults of all kinds on a real cluster: is anything lost? (CHAOS="--seed 7", CHAOS=--help)
	$(BIN)/python -m tests.chaos $(CHAOS)

bundle: $(VENV)/.ready ## dist/edgesched-bundle.tar, for boards without a network (BUNDLE="--board rk3588 --worker-python 3.10")
	$(BIN)/edgesched bundle dist/edgesched-bundle.tar $(BUNDLE)

lint: $(VENV)/.ready-dev ## what `make test` checks before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/support/check_generated.py

format: $(VENV)/.ready-dev ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.ready-dev ## generate edgesched/v1 from protos/
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. protos/edgesched/v1/*.proto

constraints: $(VENV)/.ready-dev ## write the versions that are installed now into constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

dev-scheduler: $(VENV)/.ready ## run the task manager in this terminal (gRPC 9999)
	$(BIN)/python -m edgesched.task_manager

dev-api: $(VENV)/.ready ## run the gateway in this terminal (HTTP 6666 and 8080)
	$(BIN)/python -m gateway

dev-worker: $(VENV)/.ready ## run an agent on this machine's CPU in this terminal (gRPC 20810)
	$(BIN)/python -m agents

dev-client: $(VENV)/.ready ## run the result receiver in this terminal (HTTP 8888)
	$(BIN)/python client/rst_recv.py

clean: ## remove the virtual environment and all run-time data
	rm -rf $(VENV) $(RKNN_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find workspace -mindepth 2 ! -name .gitkeep -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edgesched needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing edgesched into $(VENV) (once)"
	@$(PIP_INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(RKNN_VENV)/.ready: tests/rknn/requirements.txt
	@echo "installing rknn-toolkit2 into $(RKNN_VENV) (once)"
	@$(PYTHON) -m venv $(RKNN_VENV)
	@$(RKNN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/rknn/requirements.txt
	@$(RKNN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps rknn-toolkit2==2.5.0
	@touch $@
