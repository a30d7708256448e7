"""Database backends; the last word of each equals Django's, because other packages test for it."""

from __future__ import annotations
