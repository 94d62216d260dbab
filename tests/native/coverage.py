"""Line coverage of native/core by what was run from a build with DCA_COVERAGE, file by file.

    python tests/native/coverage.py BUILD [LEAST]

Reads gcov's counts of every object of the library. A line counts as reached if any instruction set's copy of
it was. With LEAST, a percentage, exit code 1 where all files together reach less.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "native" / "core"


def counts(build: Path) -> dict[Path, dict[int, int]]:
    """How often each line of core that holds code was run, by file."""
    lines: dict[Path, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    notes = sorted((build / "native").resolve().rglob("*.gcno"))
    # To stdout, a report a line: as files, those of sources with one name would replace each other.
    said = subprocess.run(["gcov", "--json-format", "--stdout", *notes], check=True, capture_output=True)
    for report in map(json.loads, said.stdout.splitlines()):
        for file in report["files"]:
            path = (Path(report["current_working_directory"]) / file["file"]).resolve()
            if CORE in path.parents:
                for line in file["lines"]:
                    lines[path][line["line_number"]] += line["count"]
    return lines


def ranges(numbers: list[int]) -> str:
    """1-3 5 for 1, 2, 3, 5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("least", type=float, nargs="?", default=0.0)
    arguments = parser.parse_args()
    reached = total = 0
    for path, lines in sorted(counts(arguments.build).items()):
        missed = sorted(number for number, count in lines.items() if count == 0)
        reached += len(lines) - len(missed)
        total += len(lines)
        share = 100 * (len(lines) - len(missed)) / len(lines)
        print(f"{share:5.1f} %  {path.relative_to(CORE)}" + (f"  not: {ranges(missed)}" if missed else ""))
    if total == 0:
        print("nothing was run from this build", file=sys.stderr)
        return 1
    print(f"{100 * reached / total:5.1f} %  of {total} lines")
    return 0 if 100 * reached / total >= arguments.least else 1


if __name__ == "__main__":
    sys.exit(main())
