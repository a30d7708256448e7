"""What a server does to its clients, and what settings may ask for."""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks._faults_stage import SERVER, Stage, Verdict, case, together
from testproject.postgres import PostgresServer
from tests.web_django.project import database

__all__: list[str] = []  # importing it enters the cases


@case("server restarted with four idle connections; eight requests", size=4)
def restart(stage: Stage) -> Verdict:
    from django.db import connections

    with PostgresServer() as server:
        place = database(server.dsn())
        settings = connections["default"].settings_dict
        settings.update({name: place[name] for name in SERVER})
        settings["OPTIONS"].pop("options", None)
        barrier = threading.Barrier(4)
        stage.serve("slow", lambda: (barrier.wait(20), stage.query("SELECT 1")))

        def thread() -> None:
            # A thread of a server lives on, and its persistent connection with it.
            stage.site.get("slow")
            warm.release()
            restarted.wait(60)
            for _ in range(2):
                began = time.monotonic()
                statuses.append(stage.site.get("query").status)
                took.append(time.monotonic() - began)

        stage.serve("query", lambda: stage.query("SELECT 1"))
        warm, restarted = threading.Semaphore(0), threading.Event()
        statuses: list[int] = []
        took: list[float] = []
        threads = [threading.Thread(target=thread) for _ in range(4)]
        for one in threads:
            one.start()
        for _ in range(4):
            warm.acquire(timeout=30)
        server.restart()
        restarted.set()
        for one in threads:
            one.join()
        connections["default"].close()
        if hasattr(connections["default"], "close_pool"):
            connections["default"].close_pool()
    failed = sum(status != 200 for status in statuses)
    return Verdict(not failed, f"{failed} of 8: 500" if failed else f"ok, {max(took):.1f} s")


@case("a wrong password: what the request is told")
def wrong_password(stage: Stage) -> Verdict:
    from django.db import OperationalError, connections

    with PostgresServer(password="right") as server:
        place = database(server.dsn(password="wrong"))
        wrapper = connections["default"]
        wrapper.settings_dict.update({name: place[name] for name in SERVER})
        began = time.monotonic()
        try:
            stage.query("SELECT 1")
        except OperationalError as error:
            seconds = time.monotonic() - began
            good = "password" in str(error)
            return Verdict(good, f"{'why' if good else 'not why'}, {seconds:.1f} s")
        finally:
            if hasattr(wrapper, "close_pool"):
                wrapper.close_pool()
    raise AssertionError("the server took it")


@case("NAME changes (test runner, tenants): which database is asked")
def renamed(stage: Stage) -> Verdict:
    from django.db import connection

    other = f"{stage.project.schema}_other"
    stage.project.sql(f"CREATE DATABASE {other}")
    try:
        stage.request(lambda: stage.query("SELECT 1"))
        connection.close()
        connection.settings_dict["NAME"] = other
        seen: list[Any] = []
        stage.request(lambda: seen.append(stage.query("SELECT current_database()::text")))
        if hasattr(connection, "close_pool"):
            connection.close_pool()
        connection.close()
        return Verdict(seen == [other], "the new one" if seen == [other] else "the OLD one")
    finally:
        stage.project.sql(f"DROP DATABASE {other} WITH (FORCE)")


@case("CONN_MAX_AGE=600 (Heroku's, dj-database-url's), twelve requests")
def max_age(stage: Stage) -> Verdict:
    from django.db import connection

    connection.settings_dict["CONN_MAX_AGE"] = 600
    answers: list[Any] = []
    for _ in range(12):
        together([lambda: answers.append(stage.request(lambda: stage.query("SELECT 1")).status)])
    failed = sum(status != 200 for status in answers)
    if failed:
        return Verdict(False, f"{failed} of 12: 500")
    sessions = stage.sessions()
    return Verdict(sessions <= stage.size, f"{sessions} session{'s' * (sessions != 1)}")
