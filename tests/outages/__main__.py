"""Break a server in every way, and print what its callers see: ours beside the other pools.

python -m tests.outages                      # everything, 5 runs each: two hours
python -m tests.outages --runs 1 --scenario "stop fast" --pool dbpool
python -m tests.outages --peer-runs 1 --markdown docs/outages-results.md
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

from tests.outages.load import POOLS
from tests.outages.scenarios import SCENARIOS
from tests.outages.tables import OURS, Page, as_text, play, table

NEEDS = {"psycopg_pool": "psycopg_pool", "psycopg_pool, check": "psycopg_pool"}
NEEDS["SQLAlchemy, pre_ping"] = "sqlalchemy"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="this one only")
    parser.add_argument("--pool", action="append", choices=POOLS, help="this one only")
    parser.add_argument("--runs", type=int, default=5, help="the worst of so many counts")
    parser.add_argument("--peer-runs", type=int, help="runs of the other pools, if fewer")
    parser.add_argument("--seconds", type=float, help="length of each fault, instead of its own")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args()

    pools = [name for name in options.pool or POOLS if _installed(name)]
    page = None if options.markdown is None else Page(options.markdown)
    failed = 0
    for scenario in SCENARIOS:
        if scenario.name not in (options.scenario or names):
            continue
        print(f"\n{scenario.name}: {scenario.about}", flush=True)
        if lacking := scenario.lacks():
            print(f"  not run: {lacking}")
            if page is not None:
                page.add(scenario, [], f"Not run: {lacking}.")
            continue
        runs = dict.fromkeys(pools, options.runs)
        if options.peer_runs is not None:
            runs |= {name: options.peer_runs for name in pools if name != OURS}
        began = time.monotonic()
        results = play(scenario, runs, options.seconds)
        rows, missed = table(scenario, results)
        failed += missed
        said = f"Runs: {', '.join(map(str, runs.values()))}, in {time.monotonic() - began:.0f} s"
        said += f"; load {os.getloadavg()[0]:.1f} at the end."
        print(as_text(rows), f"  {said}", sep="\n", flush=True)
        if page is not None:
            page.add(scenario, rows, said)
    print(f"\n{failed} marks missed by {OURS}")
    return 1 if failed else 0


def _installed(name: str) -> bool:
    module = NEEDS.get(name)
    if module is None or importlib.util.find_spec(module):
        return True
    print(f"without {name}: {module} is not installed here (`make test-outages` has it)")
    return False


if __name__ == "__main__":
    sys.exit(main())
