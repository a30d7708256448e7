"""What a fault is provoked on: a Django project with one of the backends, and a verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.web_django.project import Project
from tests.web_django.site import Site

__all__ = ["CASES", "SERVER", "Case", "Stage", "Verdict", "case", "together"]

SERVER = ("NAME", "USER", "PASSWORD", "HOST", "PORT")  # of a database: what leads to its server


class Verdict(NamedTuple):
    """What was seen; `good` is None where the question does not arise."""

    good: bool | None
    said: str


@dataclass
class Stage:
    """The project of this process."""

    project: Project
    site: Site
    is_ours: bool
    size: int

    def query(self, sql: str, *parameters: Any) -> Any:
        """Run a query as a view does; return the first column of the first row, if any."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchone()[0] if cursor.description else None

    def serve(self, path: str, view: Callable[[], Any]) -> None:
        """Have a view at `path` that answers what `view` returns."""
        from django.http import HttpResponse

        @self.site.view(path)
        def respond(request: Any) -> Any:
            return HttpResponse(str(view()))

    def request(self, view: Callable[[], Any]) -> Any:
        """Make one request to a view; return its status and text."""
        self.serve("one", view)
        return self.site.get("one")

    def statuses(self, count: int, view: Callable[[], Any]) -> list[int]:
        """Make requests one after the other; return their status codes."""
        self.serve("many", view)
        return [self.site.get("many").status for _ in range(count)]

    def sessions(self) -> int:
        """Return how many sessions the project has, however the backend names them."""
        return int(
            self.project.sql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                "backend_type = 'client backend' AND application_name <> 'tests: beside'"
            )[0][0]
        )


@dataclass(frozen=True)
class Case:
    """One way of things going wrong."""

    key: str
    title: str
    run: Callable[[Stage], Verdict]
    size: int  # how many connections the pool may have
    pool: dict[str, Any] = field(default_factory=dict)  # more options of ours
    settings: dict[str, Any] = field(default_factory=dict)  # of the project, if it is ours
    database: dict[str, Any] = field(default_factory=dict)  # of the alias, whosever it is


CASES: dict[str, Case] = {}


def case(title: str, size: int = 2, **more: Any) -> Callable[[Any], Any]:
    """Enter a function as a case, under its own name."""

    def enter(run: Callable[[Stage], Verdict]) -> Callable[[Stage], Verdict]:
        CASES[run.__name__] = Case(run.__name__, title, run, size, **more)
        return run

    return enter


def together(functions: Iterable[Callable[[], object]]) -> None:
    """Run each in a thread of its own; return when all have ended."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
