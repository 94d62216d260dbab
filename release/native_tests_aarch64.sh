#!/usr/bin/env bash
# Runs the native tests of a cross build under qemu-user: all of them with the fastest kernels, those of the instruction
# sets and of the CPU's kernels once more with the others.
#
#   release/native_tests_aarch64.sh build/aarch64/tests/native/native_tests
set -euo pipefail
tests=$1
run() { DCA_ISA=$1 qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu "$tests" "${@:2}"; }
run i8mm
for isa in dotprod generic; do
    run $isa isa_
    run $isa cpu_
done
