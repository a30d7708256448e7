"""One line that says how far the run is: rewritten on a terminal, now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TextIO


class Progress:
    def __init__(self, stream: TextIO, every: float = 5.0) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()
        self._every = 0.0 if self._rewrites else every  # seconds
        self._last = float("-inf")
        self._width = 0

    def show(self, text: str) -> None:
        """Show `text` in place of what stands there."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        if self._rewrites:
            text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps stays
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
