#!/usr/bin/env bash
# Runs the native tests of a cross build under qemu-user. Those of the kernels hold every instruction set of the machine
# against the same oracle; what the library chooses for itself is tried with each choice.
#
#   release/native_tests_aarch64.sh build/aarch64/tests/native/native_tests
set -euo pipefail
tests=$1
run() { DCA_ISA=$1 qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu "$tests" "${@:2}"; }
run generic isa_
run dotprod isa_
run dotprod packed
run i8mm
