"""gunicorn's gevent worker: greenlets in the place of threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ecosystem.promises import Database, answers_are_its_own, by_http, hold
from tests.ecosystem.serving import program, serving

pytestmark = pytest.mark.package(
    "gevent",
    to_set="psycopg2: a wait callback, see docs/concurrency.md; psycopg 3: nothing",
)


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_greenlets_share_a_small_pool_and_every_promise_holds(
    field: Database, tmp_path: Path, framework: str
) -> None:
    with serving(
        program("gunicorn"), "--no-control-socket", "--bind=127.0.0.1:{port}",
        "--worker-class=gevent", f"tests.ecosystem.{framework}_site:app",
        url=field.address(framework), log=tmp_path / "log", framework=framework, FIELD_GREEN="1",
    ) as (address, _):  # fmt: skip
        hold(by_http(address), field)
        answers_are_its_own(by_http(address), 200, 32)
        assert field.sessions() <= 3  # the pool's two, and the spare of the health check
