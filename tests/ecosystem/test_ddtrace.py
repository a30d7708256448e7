"""Datadog's tracer: it puts wrapt proxies in the place of connections and cursors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ecosystem.promises import Database, answers_are_its_own, by_http, hold
from tests.ecosystem.serving import program, serving
from tests.ecosystem.tracing import a_plain_pool_commits_and_cleans

pytestmark = pytest.mark.package("ddtrace", to_set="nothing")

# There is no agent: spans are made and dropped. A comment goes into each statement.
QUIET = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_DBM_PROPAGATION_MODE": "full",
}


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_a_site_under_ddtrace_run_with_dbm_comments_keeps_every_promise(
    field: Database, framework: str, tmp_path: Path
) -> None:
    command = [program("ddtrace-run"), program("gunicorn"), "--threads=4", "--workers=2"]
    with serving(
        *command, "--bind=127.0.0.1:{port}", f"tests.ecosystem.{framework}_site:app",
        url=field.address(framework), log=tmp_path / "log", framework=framework, **QUIET,
    ) as (address, _):  # fmt: skip
        assert by_http(address)("GET", "/proxied") == (200, "True"), "no tracer is at work"
        hold(by_http(address), field)
        answers_are_its_own(by_http(address), 100, 4)


def test_a_plain_pool_of_a_patched_driver_commits_rolls_back_and_cleans(field: Database) -> None:
    from ddtrace import patch

    patch(psycopg=True)
    a_plain_pool_commits_and_cleans(field, proxied=True)
