"""A tenant and its host names."""

from __future__ import annotations

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin

__all__ = ["Client", "Domain"]


class Client(TenantMixin):  # type: ignore[misc]
    name = models.CharField(max_length=100)
    auto_create_schema = True

    class Meta:
        app_label = "tenancy"


class Domain(DomainMixin):  # type: ignore[misc]
    class Meta:
        app_label = "tenancy"
