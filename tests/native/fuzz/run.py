"""Runs every fuzz target for a share of the time, and ends with the executions of each.

    python tests/native/fuzz/run.py BUILD SECONDS

BUILD: a build of the project with DCA_TESTS. Where it has fuzzers (DCA_FUZZ, clang) they run from the
corpus in BUILD/corpus, which they add to; otherwise the drivers run random inputs, another seed each time.
Exit code 1 where an input broke a promise: it is kept, and the log names it.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

# A share of the time and the longest input. Loading and evaluating costs most and finds most.
TARGETS = {
    "load_eval": (0.3, 4096),
    "calls": (0.25, 512),
    "parser": (0.15, 8192),
    "tokenizer": (0.1, 512),
    "saved": (0.1, 256),
    "formats": (0.1, 4096),
}
EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)|: (\d+) executions")
TIMEOUT = 60  # seconds for one input, on a busy machine


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("seconds", type=int, help="in all")
    arguments = parser.parse_args()
    programs = arguments.build / "tests" / "native"
    done: dict[str, str] = {}
    for target, (share, longest) in TARGETS.items():
        seconds = max(1, round(arguments.seconds * share))
        fuzzer = programs / f"fuzz_{target}"
        if fuzzer.exists():
            corpus = arguments.build / "corpus" / target
            corpus.mkdir(parents=True, exist_ok=True)
            driver = programs / f"fuzz_{target}_driver"
            subprocess.run([driver, "--write-seeds", corpus], check=True)
            command = [fuzzer, f"-max_total_time={seconds}", f"-max_len={longest}", f"-timeout={TIMEOUT}"]
            command += ["-rss_limit_mb=4096", "-print_final_stats=1", "-len_control=0"]
            command += [f"-artifact_prefix={arguments.build}/{target}-", corpus]
        else:
            seed = str(time.time_ns())
            command = [programs / f"fuzz_{target}_driver", "--seconds", str(seconds), "--seed", seed]
        log = arguments.build / f"{target}.log"
        with log.open("w") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        counts = EXECUTIONS.findall(log.read_text(errors="replace"))
        count = "no" if not counts else "".join(counts[-1])
        done[target] = f"{count} executions in {seconds} s" + ("" if code == 0 else f", FAILED: see {log}")
    how = "libFuzzer" if (programs / "fuzz_calls").exists() else "drivers with random seeds (no clang here)"
    print(f"{how}:")
    for target, said in done.items():
        print(f"  {target:10s} {said}")
    return 1 if any("FAILED" in said for said in done.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
