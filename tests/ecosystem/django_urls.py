"""The routes of `django_site`."""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from dbpool.drivers import driver_of
from tests.ecosystem.flask_site import STATE

__all__ = ["urlpatterns"]


def one(sql: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0] if cursor.description else None


def up(request: HttpRequest) -> HttpResponse:
    return HttpResponse("up")


def driver(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    return HttpResponse(driver_of(connection.connection).name)


def proxied(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    return HttpResponse(str(hasattr(connection.connection, "__wrapped__")))


def echo(request: HttpRequest, n: int) -> HttpResponse:
    return HttpResponse(str(one("SELECT %s::int FROM pg_sleep(0.002)", n)))


def add(request: HttpRequest, n: int) -> HttpResponse:
    one("INSERT INTO field_row VALUES (%s)", n)
    return HttpResponse("added", status=201)


def refuse(request: HttpRequest, n: int) -> HttpResponse:
    with transaction.atomic():
        one("INSERT INTO field_row VALUES (%s)", n)
        transaction.set_rollback(True)
    return HttpResponse(status=409)


def session(request: HttpRequest) -> HttpResponse:
    if request.method == "GET":
        return HttpResponse(str(one(STATE)))
    one("SET search_path = pg_catalog")
    one("SELECT set_config('app.user', 'ada', false)")
    one("SELECT pg_advisory_lock(4711)")
    one("CREATE TEMP TABLE leftover (n int)")
    return HttpResponse("changed")


def broken(request: HttpRequest) -> HttpResponse:
    one("SELECT 1/0")
    return HttpResponse("never")


urlpatterns = [
    path("up", up),
    path("proxied", proxied),
    path("driver", driver),
    path("echo/<int:n>", echo),
    path("rows/<int:n>", add),
    path("refused/<int:n>", refuse),
    path("session", session),
    path("broken", broken),
]
