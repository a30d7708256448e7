"""Sentry's SDK: its integrations wrap Flask, Django and Django's cursors; it sends locals."""

from __future__ import annotations

from typing import Any

import pytest
import sentry_sdk

from tests.ecosystem.promises import Database, hold
from tests.ecosystem.tracing import a_plain_pool_commits_and_cleans, django_client, flask_client

pytestmark = pytest.mark.package("sentry-sdk", to_set="nothing")

events: list[Any] = []


@pytest.fixture(autouse=True)
def _events() -> None:
    events.clear()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        traces_sample_rate=1.0,
        include_local_variables=True,
        before_send=lambda event, hint: events.append(event),
        before_send_transaction=lambda event, hint: None,
    )


def test_a_plain_pool_commits_rolls_back_and_cleans(field: Database) -> None:
    a_plain_pool_commits_and_cleans(field)


def test_a_flask_site_keeps_every_promise(field: Database) -> None:
    hold(flask_client(field), field)
    assert events  # the error of /broken


def test_a_django_site_keeps_every_promise(field: Database) -> None:
    hold(django_client(field), field)
    assert events
