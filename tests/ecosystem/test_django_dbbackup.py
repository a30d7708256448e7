"""django-dbbackup chooses pg_dump by the ENGINE's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package(
    "django-dbbackup",
    to_set='`DBBACKUP_CONNECTOR_MAPPING = {"dbpool_django.backends.postgresql": '
    '"dbbackup.db.postgresql.PgDumpBinaryConnector"}`',
)


def test_with_the_mapping_a_backup_is_a_dump_of_the_database_and_can_be_restored(
    field: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testproject._postgres_programs import find_programs

    programs = str(find_programs().path)
    monkeypatch.setenv("PATH", programs, prepend=":")
    django_site.configure(
        field.address("django"),
        INSTALLED_APPS=["dbbackup"],
        DBBACKUP_CONNECTOR_MAPPING={
            "dbpool_django.backends.postgresql": "dbbackup.db.postgresql.PgDumpBinaryConnector"
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

    django_site.check_names_it_only_where_it_is_missing("DBBACKUP_CONNECTOR_MAPPING")
    field.sql("INSERT INTO field_row VALUES (4711)")
    call_command("dbbackup", "--noinput", verbosity=0)
    (backup,) = (tmp_path / "backups").glob("*.bin")
    assert backup.read_bytes().startswith(b"PGDMP")
    field.sql("DELETE FROM field_row")
    call_command("dbrestore", "--noinput", verbosity=0)
    assert field.rows(4711) == 1
