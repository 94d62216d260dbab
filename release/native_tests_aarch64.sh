#!/usr/bin/env bash
# Runs the native tests of a cross build under qemu-user: all of them as the library chooses its kernels there, which has the
# kernels of every instruction set held against one oracle, then those of what it chooses with each choice.
#
#   release/native_tests_aarch64.sh build/aarch64/tests/native/native_tests
set -euo pipefail
tests=$1
run() { qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu "$tests" "$@"; }
run
DCA_ISA=generic run isa_
DCA_ISA=dotprod run isa_
DCA_ISA=dotprod run packed
