"""A page of documentation whose code blocks are run by tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Block", "Document"]


class Block(NamedTuple):
    """One code block: its language, and what is between the fences."""

    language: str
    code: str

    @property
    def file(self) -> str | None:
        """The file that its first line, a comment, says it belongs in: `# shop/urls.py`."""
        found = re.match(r"# ([\w/.]+\.py)(?:,.*)?\n", self.code)
        return found[1] if found else None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """What a console block has typed, each with what it shows as its output."""
        parts = re.split(r"^\$ ", self.code, flags=re.MULTILINE)[1:]
        return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


class Document:
    """A page in Markdown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        fenced = re.findall(r"^```(\w+)\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        self.blocks = [Block(*found) for found in fenced]

    def block(self, containing: str) -> str:
        """Return the one code block that contains a text."""
        (found,) = [code for _, code in self.blocks if containing in code]
        return found

    def section(self, heading: str) -> list[Block]:
        """Return the blocks between a heading of the second level and the next one."""
        (text,) = re.findall(
            rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", self.text, re.MULTILINE | re.DOTALL
        )
        return [block for block in self.blocks if f"\n{block.code}```" in text]

    def broken_links(self) -> list[str]:
        """Return the links to files and headings of this project that lead nowhere."""
        broken = []
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", self.text):
            name, _, anchor = target.partition("#")
            page = self.path.parent / name if name else self.path
            if not page.exists() or (anchor and anchor not in _anchors(page.read_text())):
                broken.append(target)
        return broken


def _anchors(text: str) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
