"""One table."""

from __future__ import annotations

from django.db import models

__all__ = ["Note"]


class Note(models.Model):
    text = models.CharField(max_length=100)

    class Meta:
        app_label = "shelf"

    def __str__(self) -> str:
        return self.text
