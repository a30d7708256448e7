"""The routes of the django-tenants site."""

from __future__ import annotations

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["urlpatterns"]


def tenant(request: HttpRequest) -> HttpResponse:
    """Answer with the schema that the server works in, and change the session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        schema = cursor.fetchone()[0]
        cursor.execute("SELECT count(*) FROM shelf_note")
        cursor.execute("SET statement_timeout = 5000")
    return HttpResponse(schema)


urlpatterns = [path("tenant", tenant)]
