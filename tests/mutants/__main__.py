"""Plant mistakes at random, one at a time, and see whether the tests that should fail do.

    python -m tests.mutants                     200 mistakes
    python -m tests.mutants --seed 7 --most 20  twenty, the same each time
    python -m tests.mutants --only dbpool/health/__init__.py
    python -m tests.mutants --seed 7 --results seven.jsonl   go on where that file ends

cosmic-ray finds the places and makes the mistakes: comparisons, operators, numbers, `not`, `and`,
decorators, exceptions, loops; never a text. Left out is what no test can see (annotations, blocks
and decorators for type checkers) and what Python itself refuses or warns of. Each mistake is made
in a copy of the tree. First each file of tests runs without one: it must pass, and three times as
long is what it gets. The seed is printed first, each survivor with its difference. Ends with 1 if
fewer than 85 of 100 are seen.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.mutants.files import mistakes_in_the_map, modules, tests_for
from tests.mutants.places import Mistake, chosen, every
from tests.mutants.running import copies, run, stop_all, try_out

ENOUGH = 0.85
FILE_SECONDS = 600.0  # for a file of tests without a mistake
TIMES, MORE = 3.0, 20.0  # a hang is seen when the tests take so much longer


class Results:
    """What is known already: a line of JSON for each file of tests and each mistake."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self.known: dict[str, dict[str, Any]] = {
            line["key"]: line for line in (json.loads(each) for each in lines)
        }

    def add(self, key: str, **facts: Any) -> dict[str, Any]:
        """Keep a line, and return it."""
        line = self.known[key] = {"key": key, **facts}
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line


def _without(file: str, queue: SimpleQueue[Path]) -> tuple[str, float]:
    """Return how long a file of tests takes; end all if it does not pass."""
    copy = queue.get()
    try:
        done = run(copy, [file], FILE_SECONDS)
    finally:
        queue.put(copy)
    if not done.passed:
        raise SystemExit(f"{file} fails without any mistake ({done.by}): mend that first.")
    return file, done.seconds


def _difference(mistake: Mistake) -> str:
    before, after = (text.splitlines() for text in mistake.text())
    return "\n".join(list(difflib.unified_diff(before, after, n=1, lineterm=""))[2:])


def _show(mistake: Mistake, line: dict[str, Any]) -> None:
    if line["seen"]:
        print(f"seen     {mistake}  by {line['by'][:120]} ({line['seconds']:.0f} s)", flush=True)
    else:
        print(f"SURVIVED {mistake}\n{_difference(mistake)}", flush=True)


def _plant(sample: list[Mistake], results: Results, jobs: int) -> None:
    """Try out each that is not known yet."""
    new = [mistake for mistake in sample if mistake.key not in results.known]
    files = dict.fromkeys(file for mistake in new for file in tests_for(mistake.module))
    with copies(jobs) as queue, ThreadPoolExecutor(jobs) as executor:
        try:
            untimed = [file for file in files if file not in results.known]
            for timed in as_completed([executor.submit(_without, each, queue) for each in untimed]):
                file, seconds = timed.result()
                results.add(file, seconds=seconds)
            tried = {}
            for each in new:
                usual = sum(results.known[file]["seconds"] for file in tests_for(each.module))
                tried[executor.submit(try_out, each, queue, TIMES * usual + MORE)] = each
            for future in as_completed(tried):
                mistake, done = tried[future], future.result()
                line = results.add(
                    mistake.key, mistake=str(mistake), seen=not done.passed, by=done.by,
                    seconds=done.seconds,
                )  # fmt: skip
                _show(mistake, line)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            stop_all()
            raise


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--most", type=int, default=200, help="how many mistakes")
    parser.add_argument("--only", type=Path, nargs="*", help="modules")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, help="a file to keep what is known in")
    options = parser.parse_args()
    if wrong := mistakes_in_the_map():
        sys.exit("tests/mutants/files.py is not up to date:\n  " + "\n  ".join(wrong))
    only = [path.resolve() for path in options.only] if options.only else modules()
    began, found = time.monotonic(), every(only)
    print(f"seed {options.seed}: {len(found)} mistakes in {len(only)} modules", flush=True)
    sample = list(itertools.islice(chosen(found, options.seed), options.most))
    results = Results(options.results)
    os.nice(19)
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored in a shell's background
        signal.signal(number, signal.default_int_handler)
    _plant(sample, results, options.jobs)
    survivors = [each for each in sample if not results.known[each.key]["seen"]]
    for each in survivors:
        _show(each, results.known[each.key])
    share = 1 - len(survivors) / len(sample)
    print(
        f"seed {options.seed}: of {len(sample)} mistakes {len(sample) - len(survivors)} were seen"
        f" ({share:.1%}), {len(survivors)} survived; {(time.monotonic() - began) / 60:.0f} minutes"
    )
    sys.exit(share < ENOUGH)


if __name__ == "__main__":
    _main()
