"""Outside requests nothing is committed implicitly: commands, and what click makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web_flask.conftest import Site


def test_a_failing_command_commits_nothing(site: Site) -> None:
    """With click up to 8.2.2 teardown is not told that a command has failed."""

    @site.app.cli.command("fails")
    def fails() -> None:
        site.write("undone")
        raise ValueError("bug")

    result = site.app.test_cli_runner().invoke(args=["fails"])
    assert isinstance(result.exception, ValueError)
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_command_that_succeeds_commits_nothing_by_itself_either(site: Site) -> None:
    @site.app.cli.command("forgets")
    def forgets() -> None:
        site.write("undone")

    assert site.app.test_cli_runner().invoke(args=["forgets"]).exit_code == 0
    assert site.database.notes() == []


@pytest.mark.parametrize("way", ["block", "commit"])
def test_a_command_commits_what_it_says(site: Site, way: str) -> None:
    @site.app.cli.command("imports")
    def imports() -> Any:
        if way == "block":
            with site.db.transaction():
                site.write("kept")
        else:
            site.write("kept")
            site.db.commit()
        raise ValueError("later")

    site.app.test_cli_runner().invoke(args=["imports"])
    assert site.database.notes() == ["kept"]
