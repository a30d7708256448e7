"""Elastic's agent: it puts wrapt proxies in the place of connections and cursors."""

from __future__ import annotations

import pytest

from tests.ecosystem.promises import Database, hold
from tests.ecosystem.tracing import a_plain_pool_commits_and_cleans, django_client, flask_client

pytestmark = pytest.mark.package("elastic-apm", to_set="nothing")


@pytest.fixture(autouse=True)
def _instrumented() -> None:
    import elasticapm

    elasticapm.Client(service_name="field", disable_send=True, central_config=False)
    elasticapm.instrument()


def test_a_plain_pool_commits_rolls_back_and_cleans(field: Database) -> None:
    a_plain_pool_commits_and_cleans(field, proxied=True)


def test_a_flask_site_keeps_every_promise(field: Database) -> None:
    hold(flask_client(field), field)


def test_a_django_site_keeps_every_promise(field: Database) -> None:
    hold(django_client(field), field)
