"""Which driver serves: by the URL's scheme, by name, by what is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from dbpool import ConnectionPool
from dbpool.drivers import choose
from tests.drivers.conftest import needs_psycopg
from tests.drivers.own_driver import OwnDriver

CHOICES = [
    ("", None, "psycopg2", ""),
    ("host=h", None, "psycopg2", "host=h"),
    ("postgresql://h/db", None, "psycopg2", "postgresql://h/db"),
    ("postgres://h/db", None, "psycopg2", "postgresql://h/db"),
    (" PostgreSQL+Psycopg2://h", None, "psycopg2", "postgresql://h"),
    ("postgresql+psycopg2://h", "psycopg2", "psycopg2", "postgresql://h"),
    ("sqlite://", None, "sqlite3", "sqlite://"),
    ("SQLite:///a.db", "sqlite3", "sqlite3", "sqlite:///a.db"),
    (None, "sqlite3", "sqlite3", None),
    (None, None, "psycopg2", None),
    *(
        pytest.param(*case, marks=needs_psycopg)
        for case in (
            ("postgresql+psycopg://h/db", None, "psycopg", "postgresql://h/db"),
            ("postgresql://h/db", "psycopg", "psycopg", "postgresql://h/db"),
            ("host=h", "psycopg", "psycopg", "host=h"),
            (None, "psycopg", "psycopg", None),
        )
    ),
]


@pytest.mark.parametrize(("conninfo", "wanted", "name", "plain"), CHOICES)
def test_the_scheme_or_the_name_chooses(
    conninfo: str | None, wanted: str | None, name: str, plain: str | None
) -> None:
    pytest.importorskip(name)  # `make test-freethreaded` has no psycopg2
    driver, read = choose(conninfo, wanted)
    assert (driver.name, read) == (name, plain)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name in names else find(name, *a),
    )


@needs_psycopg
@pytest.mark.parametrize("conninfo", ["", "host=h", "postgresql://h", "postgres://h", None])
def test_psycopg_serves_where_there_is_no_psycopg2(
    conninfo: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "psycopg2")
    assert choose(conninfo, None)[0].name == "psycopg"


@pytest.mark.parametrize(
    ("conninfo", "driver", "text"),
    [
        ("host=h", None, r"install dbpool-web\[psycopg2\] or dbpool-web\[psycopg\] "),
        ("postgresql+psycopg2://h", None, r"install dbpool-web\[psycopg2\] "),
        ("postgresql+psycopg://h", None, r"install dbpool-web\[psycopg\] "),
        ("host=h", "psycopg", r"install dbpool-web\[psycopg\] "),
        ("sqlite://", None, r"install a Python that has its sqlite3 module "),
    ],
)
def test_a_missing_package_is_named(
    conninfo: str, driver: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "psycopg2", "psycopg", "sqlite3")
    with pytest.raises(ModuleNotFoundError, match=text):
        ConnectionPool(conninfo, driver=driver)


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg2")

    def fail(name: str) -> None:
        raise ImportError("libpq.so.5: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"psycopg2 is installed but cannot .*libpq\.so\.5") as no:
        ConnectionPool("host=h")
    assert no.value.name == "psycopg2"


@pytest.mark.parametrize(
    ("conninfo", "driver"),
    [
        ("postgresql+psycopg2://u:sEcReT@h/db", "psycopg"),
        ("postgresql+psycopg://u:sEcReT@h/db", "psycopg2"),
        ("postgresql://u:sEcReT@h/db", "sqlite3"),
        ("sqlite:///sEcReT.db", "psycopg2"),
        ("sqlite:///sEcReT.db", "psycopg"),
    ],
)
def test_a_driver_that_does_not_serve_the_scheme_is_refused(conninfo: str, driver: str) -> None:
    with pytest.raises(ValueError, match=f"driver='{driver}' does not serve") as caught:
        ConnectionPool(conninfo, driver=driver)
    assert "sEcReT" not in str(caught.value)


def test_the_words_for_what_is_unknown_name_what_serves() -> None:
    with pytest.raises(ValueError, match=r"'mysql': use postgresql, .*psycopg, sqlite"):
        ConnectionPool("mysql://u:sEcReT@h/db")
    with pytest.raises(ValueError, match="unknown driver 'mysql': use psycopg2, psycopg, sqlite3"):
        ConnectionPool("", driver="mysql")
    for wrong in (OwnDriver, object(), 7):
        with pytest.raises(TypeError, match="psycopg2, psycopg, sqlite3, or an object"):
            ConnectionPool("", driver=wrong)  # type: ignore[arg-type]


def test_a_driver_of_ones_own_serves_any_conninfo() -> None:
    own = OwnDriver()
    for conninfo in ("", "strange://x", "postgresql://h", None):
        driver, plain = choose(conninfo, own)
        assert (driver.name, plain) == ("own", conninfo)
