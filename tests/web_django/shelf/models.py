from __future__ import annotations

from django.db import models


class Book(models.Model):
    title = models.TextField(unique=True)

    class Meta:
        app_label = "shelf"
