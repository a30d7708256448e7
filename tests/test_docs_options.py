"""docs/options.md says of each option what the code says.

`python -m tests.test_docs_options` writes the page anew.
"""

from __future__ import annotations

from pathlib import Path

from dbpool.options import OPTIONS, PoolOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"

HEAD = """# Options of a pool

Keyword arguments of `ConnectionPool`, keys of `DBPOOL_OPTIONS` in Flask and of `OPTIONS["pool"]` in
Django. Times are in seconds. A wrong value or name is refused when the pool is made, with a
sentence that names the option, the value and what is allowed.

In Django `validate_after` is 0 if not given (every checkout looks at the socket), and a
`CONN_MAX_AGE` above 0 becomes `max_lifetime`.

`reset="auto"` is the default of the Flask extension and of the Django backends; a plain pool
cleans nothing unless told. It watches what the connection's cursors execute, and the settings
that the server reports by itself, and cleans a session that has been changed: `DISCARD ALL`, then
`configure` again. An ordinary return costs no round trip for it. A borrower's own class of
cursors is watched, too. Where a class of connections goes its own way, or a function makes the
cursors, nobody can tell what was executed: that session is cleaned at each return. Not seen are
cursors that are made past the connection (psycopg 3's `ClientCursor(conn)`), and what a function
on the server changes that it does not report; `reset="discard"` cleans always.

| option | default | meaning | takes |
|---|---|---|---|
"""


def page() -> str:
    rows = [
        f"| `{name}` | `{option.default!r}` | {option.meaning} | {option.allowed} |\n"
        for name, option in OPTIONS.items()
    ]
    return HEAD + "".join(rows)


def test_the_page_of_options_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page()


def test_every_option_has_a_type() -> None:
    assert list(OPTIONS) == list(PoolOptions.__annotations__)


if __name__ == "__main__":
    PAGE.write_text(page())
