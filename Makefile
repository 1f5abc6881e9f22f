# The two commands a newcomer needs are `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := torch==2.13.0
UV      = $(BIN)/uv pip install -q --python $(BIN)/python
# Which tests are one worker's, tests/conftest.py says; a worker computes with one thread.
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadgroup
# On Linux without a local CPU wheel: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu (the default index brings CUDA).
TORCH_INDEX ?=
BENCHES = step roofline quality calibration tax serving slora overload handover coldstart training loop grammar journal wire serve_vllm groupchat recall bfcl bfcl_multi_turn textworld
export PLURAL_PEERS ?= $(HOME)/.cache/plural/peers
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled modules are kept, whatever the caller's shell says: without them every start compiles torch anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports docs audit recording pictures unit quick slow cluster triton arm bench peers lock clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## make the environment in .venv (CPU torch first, then the locked rest)

$(VENV)/.ready: requirements.lock requirements-carried.txt pyproject.toml hatch_build.py $(wildcard plural/engine/kernels/native/*)
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q uv==0.13.9; }
	@$(UV) "$(TORCH)" $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(if $(TORCH_INDEX),--index $(TORCH_INDEX))
	@$(UV) --no-deps -r requirements.lock -r requirements-carried.txt
	@$(UV) --no-deps -e .
	@touch $@

demo: setup  ## ask the network three real questions
	@$(BIN)/plural ask "Turn off the lights in the kitchen" \
	  "Turn on the bedroom fan, and give me the cron expression for every weekday at 7:30 in the morning" \
	  "When will a job that runs every weekday at 7:30 in the morning run next?"

test: lint types imports docs unit  ## lint, types, import rules, documentation, tests

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports

docs: setup  ## build the documentation site into build/site; a warning is an error
	@said=$$($(BIN)/zensical build --strict --config-file zensical.toml 2>&1) && ! echo "$$said" | grep '^griffe:' || { echo "$$said"; exit 1; }

audit: setup  ## look the locked packages up in the database of known vulnerabilities; needs the internet
	@$(BIN)/uv tool run pip-audit==2.10.1 --strict --no-deps --disable-pip -r requirements.lock -r requirements-carried.txt

recording: setup  ## record the terminal anew: docs/images/ask.svg
	@$(BIN)/python benchmarks/recording.py docs/images/ask.svg $(BIN)/plural ask "When will a job that runs every weekday at 7:30 in the morning run next?"

pictures: setup  ## photograph the studio anew: docs/images/studio-*.png; needs a Chromium, takes minutes
	@$(BIN)/python benchmarks/pictures.py

unit: setup
	@$(PYTEST)

slow: setup  ## the tests that take minutes each, which make test leaves out
	@$(PYTEST) --slow -m slow

cluster: setup  ## the network on a real Ray cluster of this machine (tests/scale): half an hour, after make peers
	@RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 $(PLURAL_PEERS)/ray/bin/python -m pytest -q --slow tests/scale

quick: setup  ## the tests that need no base model, with fewer examples; QUICK="PATHS" chooses some
	@HYPOTHESIS_PROFILE=quick $(PYTEST) -m "not real" $(QUICK)

triton: setup  ## the GPU's kernels, on the CPU in Triton's interpreter: minutes
	@$(UV) --no-deps --target $(VENV)/triton triton==3.9.0
	@PYTHONPATH=$(VENV)/triton OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine/test_triton.py

arm: setup  ## the kernels for ARM, compiled for it and run in an emulator: minutes
	@$(UV) --target $(VENV)/arm ziglang==0.17.1 qiling==1.4.6
	@PYTHONPATH=$(VENV)/arm $(BIN)/python -m pytest -q --slow tests/engine/test_arm.py

bench: setup  ## time everything, beside the peers that are there: hours; BENCHES="tax slora" times some
	@failed=; for one in $(BENCHES); do $(BIN)/python benchmarks/$$one.py || failed="$$failed $$one"; done; \
	  test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

peers: setup  ## make the environments of the engines that bench compares with (vLLM, peft, llama.cpp), and Ray's, in PLURAL_PEERS
	@benchmarks/peers/install.sh $(BIN)/uv $(PLURAL_PEERS) $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(if $(TORCH_INDEX),--index $(TORCH_INDEX))

# Ray (280 MB) and s3fs (botocore holds others back) are left out; their tests bring environments of their own, or skip.
EXTRAS = tools mcp a2a postgres docs plot traces school dev
# CPU torch, found locally or at TORCH_INDEX, must be what is resolved: the default one brings CUDA's packages into the lock.
lock: setup  ## resolve pyproject.toml anew into requirements.lock
	@echo "$(TORCH)" | $(BIN)/uv pip compile pyproject.toml $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(if $(TORCH_INDEX),--index $(TORCH_INDEX)) --constraint - $(EXTRAS:%=--extra %) -o requirements.lock -q --no-emit-package torch --no-emit-find-links --no-annotate --custom-compile-command "make lock"

clean:  ## remove the environment and the caches of the tools
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
