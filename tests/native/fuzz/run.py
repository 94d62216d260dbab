"""Runs every fuzz target for a share of the time, and ends with the executions of each.

    python tests/native/fuzz/run.py BUILD SECONDS [--jobs N] [--out FOLDER]

BUILD: a build of the project with DCA_TESTS, or a folder of its drivers (`make fuzz-binaries`). Where there
are fuzzers (DCA_FUZZ, clang) they run from the corpus in BUILD/corpus, which they add to; otherwise the
drivers run random inputs, another seed each time. N processes run at a time, each through all targets.
Exit code 1 where an input broke a promise or did not end: it is kept in FOLDER (BUILD), beside what was said.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A share of the time and the longest input. The shares give load_eval and calls about as many executions,
# and the parser ten times as many.
TARGETS = {
    "load_eval": (0.32, 4096),
    "calls": (0.36, 512),
    "parser": (0.2, 8192),
    "tokenizer": (0.04, 512),
    "saved": (0.04, 256),
    "formats": (0.04, 4096),
}
EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)|: (\d+) executions")
TIMEOUT = 60  # seconds for one input, on a busy machine
MOST_FINDINGS = 20  # of one target in one process: then it is known to be broken


def command_of(programs: Path, target: str, seconds: int, corpus: Path, out: Path) -> list[str | Path]:
    fuzzer = programs / f"fuzz_{target}"
    driver = programs / f"fuzz_{target}_driver"
    if not fuzzer.exists():
        seed = int.from_bytes(os.urandom(8), "little")
        return [driver, "--seconds", str(seconds), "--seed", str(seed)]
    longest = TARGETS[target][1]
    command = [fuzzer, f"-max_total_time={seconds}", f"-max_len={longest}", f"-timeout={TIMEOUT}"]
    command += ["-rss_limit_mb=4096", "-print_final_stats=1", "-len_control=0"]
    return [*command, f"-artifact_prefix={out}/{target}-", corpus]


def run(programs: Path, target: str, seconds: int, corpus: Path, out: Path, job: int) -> tuple[int, int]:
    """Executions, and inputs that broke a promise. After one the rest of the time goes on with others."""
    executions = findings = 0
    end = time.monotonic() + seconds
    while (left := round(end - time.monotonic())) > 0 and findings < MOST_FINDINGS:
        name = f"{target}-{job}-{findings}"
        scratch = out / f"{name}.running"
        scratch.mkdir(parents=True, exist_ok=True)
        log = out / f"{name}.log"
        command = command_of(programs, target, left, corpus, out)
        with log.open("w") as file:
            try:
                environment = os.environ | {"TMPDIR": str(scratch)}
                code = subprocess.run(
                    command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=left + TIMEOUT
                ).returncode
            except subprocess.TimeoutExpired:
                file.write(f"an input did not end within {TIMEOUT} s\n")
                code = 1
        counts = EXECUTIONS.findall(log.read_text(errors="replace"))
        executions += int("".join(counts[-1])) if counts else 0
        if code != 0:
            findings += 1
            for kept in scratch.glob("dca-fuzz-input-*"):
                kept.replace(out / f"{name}.input")
        else:
            log.unlink()
        shutil.rmtree(scratch)
    return executions, findings


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("seconds", type=int, help="of time in all, whatever the number of processes")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--out", type=Path, help="where inputs that broke something go (default: BUILD)")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    out = (arguments.out or build).resolve()
    programs = build / "tests" / "native"
    programs = programs if programs.is_dir() else build
    corpora = {target: build / "corpus" / target for target in TARGETS}
    libfuzzer = (programs / "fuzz_calls").exists()
    if libfuzzer:
        for target, corpus in corpora.items():
            corpus.mkdir(parents=True, exist_ok=True)
            driver = programs / f"fuzz_{target}_driver"
            subprocess.run([driver, "--write-seeds", corpus], check=True)

    def job(number: int) -> dict[str, tuple[int, int]]:
        targets = list(TARGETS)
        first = number % len(targets)  # not all of them at the same one
        return {
            target: run(programs, target, seconds[target], corpora[target], out, number)
            for target in targets[first:] + targets[:first]
        }

    seconds = {target: max(1, round(arguments.seconds * share)) for target, (share, _) in TARGETS.items()}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(job, range(arguments.jobs)))
    print("libFuzzer:" if libfuzzer else "drivers with random seeds:")
    failures = 0
    for target in TARGETS:
        executions, findings = map(sum, zip(*(one[target] for one in done), strict=True))
        failed = f", {findings} FAILED: see {out}/{target}-*" if findings else ""
        core_seconds = seconds[target] * arguments.jobs
        print(f"  {target:10s} {executions:>13,} executions in {core_seconds:,} s of a core{failed}")
        failures += findings
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
