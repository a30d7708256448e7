"""What the server does with a text is what its reading has said, however it is put together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from psycopg2 import Error

from tests.support.inside import leaves
from tests.support.servers import Postgres, connect

HIDDEN = "; SET x.y = 'z'; "
INSIDE = ("a", "it''s", HIDDEN, "/*", "*/", "--", "$$", "$a$", '"', "\\", "\\\\", "e", "\n", ";")
WORDS = (
    *("1", "'a' 'b'", "N'x'", "e'\\''", "1 AS x$a$", "1 AS xe", "1 AS é$a$", "typee'x'"),
    *("set_config('x.y', 'z', true)", "set_config('x.y', 'z', false)"),
    *("set_config('a.b', 'set_config(', true)", "set_config('x.y', E'z\\'', true)"),
    *("set_config('x.y', 'z\\', true)", "\"set_config\"('x.y', 'z', false)"),
    *("SET_CONFIG('x.y', 'z', TRUE)", "set_config('x.y', 'z', 'false')"),
    *("U&\"set\\005fconfig\"('x.y', 'z', false)", "set_config('x.y'::text, 'z'::text, true)"),
)
TEMPORARY = ("TEMP", "TEMPORARY", "temp TABLE", "LOCAL TEMP", "template")


class Writer:
    """Writes texts that are statements more often than not."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def inside(self) -> str:
        return "".join(self.chance.choices(INSIDE, k=self.chance.randint(0, 4)))

    def item(self) -> str:
        quoted = ("'{}'", "E'{}'", "$${}$$", "$a${}$a$", '1 AS "{}"')
        if self.chance.random() < 0.5:
            return self.chance.choice(quoted).format(self.inside())
        return self.chance.choice(WORDS)

    def space(self) -> str:
        line = self.inside().replace("\n", " ")
        comments = (f"/*{self.inside()}*/", f"/* /* {line} */ */", f"--{line}\n", f"--{line}\r")
        return self.chance.choice((" ", " ", "\n\t", "/**/", *comments))

    def statement(self) -> str:
        a, b, c = self.space(), self.space(), self.space()
        return self.chance.choice(
            (
                f"{a}SELECT{b} {self.item()},{c}{self.item()}",
                f"{a}WITH q AS (SELECT 1) SELECT{b} {self.item()} FROM{c} q",
                f"{a}SET{b} x.y = 'z'",
                f"{a}SET{b} LOCAL{c} x.y = 'z'",
                f"{a}SELECT 1 INTO{b} {self.chance.choice(TEMPORARY)}{c} leftover",
                a,
            )
        )

    def text(self) -> str:
        parts = [self.statement() for _ in range(self.chance.choice((1, 1, 2, 3)))]
        text = self.chance.choice((";", "; ", " ;\n")).join(parts) + self.space()
        return text + self.chance.choice(("", " ", "; "))


@pytest.fixture
def changes(postgres: Postgres) -> Iterator[Callable[[str, bool], bool]]:
    """A function that runs a text, and returns whether the session is another then."""
    with closing(connect(postgres.dsn())) as conn, conn.cursor() as cursor:
        conn.autocommit = True

        def run(text: str, standard: bool) -> bool:
            try:
                cursor.execute(f"SET standard_conforming_strings TO {standard}")
                cursor.execute(text)
            except Error:
                pass
            cursor.execute(
                "SELECT coalesce(current_setting('x.y', true), '') <> ''"
                " OR to_regclass('pg_temp.leftover') IS NOT NULL"
            )
            (changed,) = cursor.fetchone() or (False,)
            if changed:
                cursor.execute("DISCARD ALL")
            return bool(changed)

        yield run


@pytest.mark.filterwarnings("ignore::Warning")
def test_no_text_hides_from_its_reader_what_the_server_does(
    changes: Callable[[str, bool], bool],
) -> None:
    writer = Writer(seed=13)
    did = 0
    for number in range(800):
        text = writer.text()
        if changes(text, number % 3 != 0):
            did += 1
            assert leaves(text), text
    assert did > 80  # or the texts are not what they should be
