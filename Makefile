# make env    the environment in .venv: pinned dependencies, detectron2, this package with its kernels
# make demo   train, evaluate and draw the quick configuration on generated images
# make dev    what tests and lint need on top, in the same environment
# make test   all tests
# make test-all  the tests, and every encoder on every family exported in every dialect
# make lint   ruff, mypy --strict, clang-format
# make asan   the kernels under the address and undefined behaviour sanitizers, CUDA's emulated
# make tsan   their threads under the thread sanitizer
# make wheel  dist/: one wheel for every Python, with the kernels for the CPU; it needs no compiler
# make wheel-cuda  dist/cuda/: the same with the kernels for the CUDA of this PyTorch
# make wheel-test  the operators of dist/ under every PyTorch that pip finds: some GB of downloads
# Every target sets up what it needs, once. Another interpreter: make env PYTHON=python3.12
# A machine without a GPU: make env TORCH_INDEX=https://download.pytorch.org/whl/cpu

SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
# Where torch and torchvision come from; empty: from PyPI, on Linux with CUDA.
TORCH_INDEX ?=
DEMO_CONFIG ?= configs/quick_schedules/dino_shapes.yaml
DEMO_OUTPUT ?= output/demo

PY := $(VENV)/bin/python
TORCH := $(shell grep -E '^torch(vision)?==' requirements.txt)
KERNELS := $(shell find kernels -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: env demo dev test test-all lint asan tsan wheel wheel-cuda wheel-test
.DELETE_ON_ERROR:

env: $(VENV)/.installed

dev: $(VENV)/.dev

demo: env
	$(PY) -m lite_focus_detr.tools.check_env
	$(PY) train_net.py --resume --config-file $(DEMO_CONFIG) OUTPUT_DIR $(DEMO_OUTPUT)
	$(PY) -m lite_focus_detr.tools.visualize --config-file $(DEMO_CONFIG) \
		--weights $(DEMO_OUTPUT)/model_final.pth --output $(DEMO_OUTPUT)/pictures

# Two processes at once, as most machines have two cores, of one thread each: the models of the tests
# are small, and threads that wait for a busy core cost more than they bring. Tests of the kernels
# choose their own number.
FIRST_TESTS := $(addprefix tests/,analysis engine export extending tools)
PYTEST = OMP_NUM_THREADS=1 COVERAGE_FILE=build/coverage.$(1) $(PY) -m pytest --durations=25 --cov --cov-report= --cov-fail-under=0

test: dev
	@mkdir -p build && rm -f build/coverage*
	$(call PYTEST,first) $(FIRST_TESTS) > build/first_tests.log 2>&1 & first=$$!; \
	$(call PYTEST,second) $(addprefix --ignore=,$(FIRST_TESTS)); second=$$?; \
	wait $$first; first=$$?; cat build/first_tests.log; exit $$((first | second))
	@COVERAGE_FILE=build/coverage $(PY) -m coverage combine -q build/coverage.first build/coverage.second
	@COVERAGE_FILE=build/coverage $(PY) -m coverage report --skip-covered

test-all: test
	$(PY) dev/export_matrix.py > docs/export_matrix.md

lint: dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict
	$(VENV)/bin/clang-format --dry-run -Werror $(KERNELS) tests/ops/cuda_emulation/* dev/thread_sanitizer/*.cpp

asan: dev
	dev/sanitize_operators.sh asan $(PY)

tsan:
	dev/sanitize_operators.sh tsan

wheel: dev
	$(PY) dev/build_wheel.py --output dist

wheel-cuda: dev
	FORCE_CUDA=1 $(PY) dev/build_wheel.py --output dist/cuda

wheel-test: wheel
	$(PY) dev/test_wheel.py dist/*.whl

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is older than Python 3.10; name another: make PYTHON=python3.11" >&2; exit 1; }
	@# An environment that is only half there is made anew, one of the user's own is not.
	@test -d $(VENV) || touch $(VENV).incomplete
	$(PYTHON) -m venv $$(test ! -e $(VENV).incomplete || echo --clear) $(VENV)
	@touch $@
	@rm -f $(VENV).incomplete

$(VENV)/.requirements: requirements.txt | $(VENV)/.created
	@dev/announce_setup.sh "$(TORCH_INDEX)"
	$(PY) dev/mend_environment.py
	$(if $(TORCH_INDEX),$(PY) -m pip install --no-deps --index-url $(TORCH_INDEX) $(TORCH))
	$(PY) -m pip install -r requirements.txt
	@touch $@

$(VENV)/.detectron2: requirements-detectron2.txt dev/install_detectron2.sh $(VENV)/.requirements
	dev/install_detectron2.sh $(PY)
	@touch $@

$(VENV)/.installed: setup.py pyproject.toml $(KERNELS) kernels/onnxruntime/exports.map $(VENV)/.detectron2
	@mkdir -p build
	@test -e build/onnxruntime/onnxruntime_c_api.h || $(PY) dev/get_onnxruntime_header.py || true
	$(PY) -m pip install -v --no-build-isolation --no-deps --editable . 2>&1 | tee build/nvcc.log
	@touch $@

# Together with requirements.txt, so that nothing here changes a version of there.
$(VENV)/.dev: requirements-dev.txt $(VENV)/.installed
	$(PY) dev/mend_environment.py
	$(PY) -m pip install -r requirements.txt -r requirements-dev.txt
	@touch $@
