"""A broker of files for Celery, where nobody sees a message before it is whole.

Kombu's file transport writes a message where workers look for it: one that looks in the midst of
that takes an empty message, and it is lost. So senders write to a folder of their own, and `post`
moves what is there.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["make", "options", "post"]


def make(folder: Path) -> None:
    """Make the broker's folders, and one for results."""
    for name in ("outbox", "queue", "control", "results"):
        (folder / name).mkdir()


def options(folder: Path) -> dict[str, str]:
    """Return Celery's broker_transport_options."""
    return {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "outbox"),
        "control_folder": str(folder / "control"),
    }


def post(folder: Path) -> None:
    """Let the workers see what has been sent."""
    for message in sorted((folder / "outbox").iterdir()):
        message.replace(folder / "queue" / message.name)
