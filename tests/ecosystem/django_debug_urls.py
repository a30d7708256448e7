"""The routes of `django_site`, and those of the debugging packages."""

from __future__ import annotations

from debug_toolbar.toolbar import debug_toolbar_urls
from django.urls import include, path

from tests.ecosystem.django_urls import urlpatterns as site

__all__ = ["urlpatterns"]

urlpatterns = [
    *site,
    path("silk/", include("silk.urls", namespace="silk")),
    *debug_toolbar_urls(),
]
