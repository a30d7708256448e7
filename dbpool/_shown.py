"""What of a value that somebody has configured may stand in an error: a word or number, no more.

A URL, a password or a token ends up under the wrong key now and then, and errors end up in logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["any_of", "is_word", "shown"]

_SHORT = 16  # characters; what is as long, and no words of one case, may be a token
_WORD = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")
_NUMERAL = re.compile(r"[-+]?[0-9.]{1,9}(?:e[-+]?[0-9]{1,3})?")
_PARTS = re.compile(r"[._-]")
_LONGEST = 80


def is_word(text: str) -> bool:
    """Return whether a string is a plain word (a name, a dotted path) or a short number.

    Long ones count only if each part of them is letters of one case, perhaps with a number behind.
    """
    if _NUMERAL.fullmatch(text):
        return True
    if len(text) < _SHORT:
        return not text or _WORD.fullmatch(text) is not None
    return len(text) <= _LONGEST and all(_is_plain(part) for part in _PARTS.split(text))


def _is_plain(part: str) -> bool:
    letters = part.rstrip("0123456789")
    return (
        len(part) - len(letters) <= 4
        and (letters.isalpha() or not letters)
        and (letters.islower() or letters.isupper() or letters[1:].islower() or len(letters) < 2)
    )


def shown(value: object) -> str:
    """Return how an error shows a value: strings only if they are words, objects never."""
    if value is None or isinstance(value, (bool, int, float)):
        try:
            return repr(value)
        except ValueError:  # more digits than Python writes
            return "(a number with too many digits)"
    if isinstance(value, str):
        return repr(value) if is_word(value) else "(a string that is not shown here)"
    if isinstance(value, type):
        return f"(the class {value.__name__})"
    return f"(of type {type(value).__name__})"


def any_of(names: Iterable[object]) -> str:
    """Return the names that are words, quoted and with commas between."""
    return ", ".join(shown(name) for name in names)
