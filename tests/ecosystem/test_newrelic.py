"""New Relic's agent, by its own start program, without a collector."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ecosystem.promises import Database, answers_are_its_own, by_http, hold
from tests.ecosystem.serving import program, serving

pytestmark = pytest.mark.package("newrelic", to_set="nothing")

INI = """
[newrelic]
app_name = field
license_key = 0123456789012345678901234567890123456789
developer_mode = true
log_level = error
"""


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_a_site_under_newrelic_admin_keeps_every_promise(
    field: Database, framework: str, tmp_path: Path
) -> None:
    (tmp_path / "newrelic.ini").write_text(INI)
    command = [program("newrelic-admin"), "run-program", program("gunicorn"), "--threads=4"]
    with serving(
        *command, "--bind=127.0.0.1:{port}", f"tests.ecosystem.{framework}_site:app",
        url=field.address(framework), log=tmp_path / "log", framework=framework,
        NEW_RELIC_CONFIG_FILE=str(tmp_path / "newrelic.ini"),
    ) as (address, _):  # fmt: skip
        assert by_http(address)("GET", "/proxied") == (200, "True"), "no tracer is at work"
        hold(by_http(address), field)
        answers_are_its_own(by_http(address), 100, 4)
