"""Break a server in every way, and print what its callers see: ours beside the other pools.

python -m tests.outages                      # everything, 5 runs each: hours
python -m tests.outages --runs 1 --scenario "stop fast" --pool dbpool
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time

from tests.outages.load import POOLS
from tests.outages.scenarios import SCENARIOS, Result, Scenario

NEEDS = {"psycopg_pool": "psycopg_pool", "psycopg_pool, check": "psycopg_pool"}
NEEDS["SQLAlchemy, pre_ping"] = "sqlalchemy"
OURS = "dbpool"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="this one only")
    parser.add_argument("--pool", action="append", choices=POOLS, help="this one only")
    parser.add_argument("--runs", type=int, default=5, help="the worst of so many counts")
    parser.add_argument("--peer-runs", type=int, help="runs of the other pools, if fewer")
    parser.add_argument("--seconds", type=float, help="length of each fault, instead of its own")
    options = parser.parse_args()

    pools = [name for name in options.pool or POOLS if _installed(name)]
    failed = 0
    for scenario in SCENARIOS:
        if scenario.name not in (options.scenario or names):
            continue
        print(f"\n{scenario.name}: {scenario.stage.__doc__}", flush=True)
        if scenario.missing:
            print(f"  not run: {scenario.missing}")
            continue
        runs = dict.fromkeys(pools, options.runs)
        if options.peer_runs is not None:
            runs |= {name: options.peer_runs for name in pools if name != OURS}
        failed += _play(scenario, runs, options.seconds)
    print(f"\n{failed} marks missed by {OURS}")
    return 1 if failed else 0


def _installed(name: str) -> bool:
    module = NEEDS.get(name)
    if module is None or importlib.util.find_spec(module):
        return True
    print(f"without {name}: {module} is not installed here (`make test-outages` has it)")
    return False


def _play(scenario: Scenario, runs: dict[str, int], seconds: float | None) -> int:
    """Run it with every pool in turn, print the table; return how many marks ours missed."""
    pools = list(runs)
    results: dict[str, list[Result]] = {name: [] for name in pools}
    began = time.monotonic()
    for number in range(max(runs.values())):
        for name in pools:
            if number < runs[name]:
                results[name].append(scenario.run(name, seconds=seconds))
    missed = 0
    rows = [["mark (worst of runs)", "at most", *pools]]
    for mark in scenario.marks:
        row = [mark.title, f"{mark.most:g}"]
        for name in pools:
            values = [mark.value(result) for result in results[name]]
            worst = None if None in values else max(value for value in values if value is not None)
            met = all(mark.met(value) for value in values)
            row.append(("never" if worst is None else f"{worst:.4g}") + ("" if met else " !"))
            missed += not met and name == OURS
        rows.append(row)
    for title, name, scale in (
        ("first error, s", "first_error", 1),
        ("errors per thread", "per_thread", 1),
        ("longest beyond deadline, s", "overrun", 1),
        ("heartbeat gap before, s", "gap_before", 1),
    ):
        row = [title, ""]
        for pool in pools:
            values = [getattr(result.figures, name) for result in results[pool]]
            present = [value * scale for value in values if value is not None]
            row.append(f"{max(present):.4g}" if present else "none")
        rows.append(row)
    row = ["errors of one run", ""]
    for pool in pools:
        kinds = results[pool][-1].figures.kinds
        row.append(", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "none")
    rows.append(row)
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    for line in rows:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())
    print(
        f"  {', '.join(map(str, runs.values()))} runs, {time.monotonic() - began:.0f} s", flush=True
    )
    return missed


if __name__ == "__main__":
    sys.exit(main())
