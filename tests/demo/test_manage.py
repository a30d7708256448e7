"""The Django shop's command line: what a developer types every day works over the pool."""

from __future__ import annotations

import re

import pytest

from testproject.demo.servers import manage
from tests.demo.conftest import ShopDatabase


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("check --fail-level WARNING --database default", "System check"),
        ("makemigrations --check", "No changes"),
        ("migrate --check", ""),
        ("seed --products 1", "2 products"),
        ("test --no-input", r"Ran 4 tests(.|\n)*OK"),
    ],
)
def test_a_command_succeeds_and_leaves_no_session(
    shop_database: ShopDatabase, command: str, says: str
) -> None:
    assert re.search(says, manage(command, shop_database.variables))
    assert shop_database.sessions() == 0
