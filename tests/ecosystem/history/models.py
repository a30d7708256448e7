"""A tracked table, and that of its events."""

from __future__ import annotations

import pghistory
from django.db import models

__all__ = ["Tracked", "TrackedEvent"]


@pghistory.track()
class Tracked(models.Model):
    text = models.CharField(max_length=100)

    class Meta:
        app_label = "history"

    def __str__(self) -> str:
        return self.text


TrackedEvent = Tracked.pgh_event_model  # type: ignore[attr-defined]
