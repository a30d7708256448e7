"""WSGI and ASGI servers, each with the Flask site, the Django site, or both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ecosystem.promises import Database, answers_are_its_own, by_http, hold
from tests.ecosystem.serving import program, serving

pytestmark = pytest.mark.package("gunicorn", "uvicorn", "daphne", "waitress", to_set="nothing")

GUNICORN = (program("gunicorn"), "--no-control-socket", "--bind=127.0.0.1:{port}")
WSGI = {
    "gunicorn sync": (*GUNICORN, "--workers=2"),
    "gunicorn gthread preloaded": (*GUNICORN, "--workers=2", "--threads=8", "--preload"),
    "waitress": (program("waitress-serve"), "--listen=127.0.0.1:{port}", "--threads=8"),
}
ASGI = {
    "uvicorn": (program("uvicorn"), "--port={port}", "--log-level=warning"),
    "daphne": (program("daphne"), "-p", "{port}", "-v0"),
}


@pytest.mark.parametrize("framework", ["flask", "django"])
@pytest.mark.parametrize("server", WSGI)
def test_behind_a_wsgi_server_a_site_keeps_every_promise(
    field: Database, tmp_path: Path, server: str, framework: str
) -> None:
    with serving(
        *WSGI[server], f"tests.ecosystem.{framework}_site:app", url=field.address(framework),
        log=tmp_path / "log", framework=framework, FIELD_USED="1",
    ) as (address, _):  # fmt: skip
        hold(by_http(address), field)
        answers_are_its_own(by_http(address), 200, 8)


@pytest.mark.parametrize("server", ASGI)
def test_behind_an_asgi_server_django_keeps_every_promise(
    field: Database, tmp_path: Path, server: str
) -> None:
    with serving(
        *ASGI[server], "tests.ecosystem.django_site:app", url=field.address("django"),
        log=tmp_path / "log", framework="django", FIELD_ASGI="1",
    ) as (address, _):  # fmt: skip
        hold(by_http(address), field)
        answers_are_its_own(by_http(address), 100, 8)
