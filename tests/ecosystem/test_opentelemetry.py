"""OpenTelemetry's instrumentors for the driver, Flask and Django."""

from __future__ import annotations

import importlib

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.ecosystem.promises import DRIVER, Database, hold
from tests.ecosystem.tracing import a_plain_pool_commits_and_cleans, django_client, flask_client

pytestmark = pytest.mark.package(
    "opentelemetry-instrumentation-{driver}",
    "opentelemetry-instrumentation-flask",
    "opentelemetry-instrumentation-django",
    to_set="nothing",
)

exporter = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def _instrumented() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    module = importlib.import_module(f"opentelemetry.instrumentation.{DRIVER}")
    instrumentor = getattr(module, f"{DRIVER.capitalize()}Instrumentor")
    instrumentor().instrument(enable_commenter=True)


def _traced() -> bool:
    return any("INSERT" in span.name for span in exporter.get_finished_spans())


def test_a_plain_pool_commits_rolls_back_and_cleans(field: Database) -> None:
    a_plain_pool_commits_and_cleans(field)
    assert _traced()


def test_a_flask_site_keeps_every_promise(field: Database) -> None:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor().instrument()
    hold(flask_client(field), field)
    assert _traced()


def test_a_django_site_keeps_every_promise(field: Database) -> None:
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    middleware = [
        "dbpool_django.middleware.HealthMiddleware",
        "dbpool_django.middleware.UnavailableMiddleware",
        "opentelemetry.instrumentation.django.middleware.sqlcommenter_middleware.SqlCommenter",
    ]
    client = django_client(field, MIDDLEWARE=middleware)
    DjangoInstrumentor().instrument(is_sql_commentor_enabled=True)
    hold(client, field)
    assert _traced()
