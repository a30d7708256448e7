"""django-dbbackup chooses pg_dump by the ENGINE's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package(
    "django-dbbackup",
    to_set='`DBBACKUP_CONNECTOR_MAPPING = {"dbpool_django.backends.postgresql": '
    '"dbbackup.db.postgresql.PgDumpConnector"}`',
)


def test_with_the_mapping_a_backup_is_a_dump_of_the_database(
    field: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testproject._postgres_programs import find_programs

    programs = str(find_programs()[0])
    monkeypatch.setenv("PATH", programs, prepend=":")
    django_site.configure(
        field.address("django"),
        INSTALLED_APPS=["dbbackup"],
        DBBACKUP_CONNECTOR_MAPPING={
            "dbpool_django.backends.postgresql": "dbbackup.db.postgresql.PgDumpConnector"
        },
        STORAGES={
            "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
            "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
            "dbbackup": {
                "BACKEND": "django.core.files.storage.FileSystemStorage",
                "OPTIONS": {"location": str(tmp_path / "backups")},
            },
        },
    )
    from django.core.management import call_command

    field.sql("INSERT INTO field_row VALUES (4711)")
    call_command("dbbackup", "--noinput", verbosity=0)
    (backup,) = (tmp_path / "backups").glob("*.psql")
    text = backup.read_text(errors="replace")
    assert "PostgreSQL database dump" in text
    assert "4711" in text
