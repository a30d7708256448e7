"""The trace of a request counts calls of ours, for each framework and driver."""

from __future__ import annotations

import re

from tests.benchmarks_.test_bench_core import run


def test_each_is_traced() -> None:
    rows = re.findall(
        r"^(flask|django) +(sqlite|psycopg2) +(\d+) calls +(\d+) files +(\d+) changes of file$",
        run("trace_request.py"),
        re.MULTILINE,
    )
    assert [row[:2] for row in rows] == [
        (framework, driver)
        for framework in ("flask", "django")
        for driver in ("sqlite", "psycopg2")
    ]
    for _, _, calls, files, changes in rows:
        assert int(calls) > int(changes) >= int(files) - 1 > 3
