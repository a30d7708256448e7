"""The Flask site."""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack

from flask import Flask, abort, redirect, request
from flask.typing import ResponseReturnValue

from dbpool import ConnectionPool
from dbpool_flask import DBPool
from tests.health.golden import HOST, PATIENT, TOKEN
from tests.health.situations import OPTIONS, settled

__all__ = ["app", "make_site"]

_for_good = ExitStack()
atexit.register(_for_good.close)  # before the pools', which were registered first


def make_site(url: str) -> tuple[Flask, ConnectionPool]:
    """Return the app and its pool."""
    site = Flask(__name__)
    site.config.update(
        DBPOOL_URL=url,
        DBPOOL_OPTIONS=OPTIONS,
        TRUSTED_HOSTS=[HOST],
        DBPOOL_HEALTH_TOKEN=TOKEN,
        **PATIENT,
    )

    @site.before_request
    def guard() -> ResponseReturnValue | None:
        if not request.is_secure:
            return redirect(f"https://{HOST}{request.path}", 301)
        if request.authorization is None:
            abort(401)
        return None

    @site.get("/")
    def home() -> str:
        return "home"

    db = DBPool(site)
    with site.app_context():
        return site, db.pools["default"]


def app() -> Flask:
    """Return the app that the environment asks for."""
    site, pool = make_site(os.environ["GOLDEN_URL"])
    _for_good.enter_context(settled(os.environ["GOLDEN_SITUATION"], pool))
    return site
