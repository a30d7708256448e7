"""What one request leaves behind, and what the next one finds."""

from __future__ import annotations

import gc
import threading
from typing import Any

from benchmarks._faults_stage import Stage, Verdict, case, together

__all__: list[str] = []  # importing it enters the cases

INSERT = "INSERT INTO shelf_book (title) VALUES (%s)"


def _next_is_kept(stage: Stage) -> Verdict:
    """Write in another request, in autocommit, and see whether it is there."""
    answer = stage.request(lambda: stage.query(INSERT, "next"))
    kept = stage.project.titles()
    if answer.status != 200:
        return Verdict(False, f"next request: {answer.status}")
    if kept == ["next"]:
        return Verdict(True, "next write kept")
    return Verdict(False, "next write LOST" if "next" not in kept else f"left: {kept}")


@case("a raw BEGIN left open; the next request's INSERT", size=1)
def raw_begin(stage: Stage) -> Verdict:
    stage.request(lambda: (stage.query("BEGIN"), stage.query(INSERT, "open")))
    return _next_is_kept(stage)


@case("set_autocommit(False) left so; the next request's INSERT", size=1)
def autocommit_off(stage: Stage) -> Verdict:
    from django.db import transaction

    stage.request(lambda: (transaction.set_autocommit(False), stage.query(INSERT, "open")))
    return _next_is_kept(stage)


@case("a view raises in an atomic block; the next INSERT", size=1)
def atomic_raises(stage: Stage) -> Verdict:
    from django.db import transaction

    def view() -> None:
        with transaction.atomic():
            stage.query(INSERT, "rolled back")
            raise LookupError

    stage.request(view)
    return _next_is_kept(stage)


def _reaches_next(stage: Stage, leave: list[str], ask: str, clean: Any) -> Verdict:
    stage.request(lambda: [stage.query(statement) for statement in leave] and "left")
    seen: list[Any] = []
    answer = stage.request(lambda: seen.append(stage.query(ask)))
    if answer.status != 200:
        return Verdict(False, f"next request: {answer.status}")
    return Verdict(True, "clean") if seen == [clean] else Verdict(False, f"sees {seen[0]!r}")


@case("SET statement_timeout: the next request has it", size=1)
def setting_leaks(stage: Stage) -> Verdict:
    ask = "SELECT current_setting('statement_timeout')"
    return _reaches_next(stage, ["SET statement_timeout = '4321ms'"], ask, "0")


@case("a tenant by set_config: the next request has it", size=1)
def tenant_leaks(stage: Stage) -> Verdict:
    leave = ["SELECT set_config('app.tenant', 'acme', false)"]
    ask = "SELECT nullif(current_setting('app.tenant', true), '')"
    return _reaches_next(stage, leave, ask, None)


@case("SET ROLE: the next request runs as it", size=1)
def role_leaks(stage: Stage) -> Verdict:
    user = stage.project.sql("SELECT current_user")[0][0]
    ask = "SELECT current_user::text"
    return _reaches_next(stage, ["SET ROLE pg_monitor"], ask, user)


@case("a temporary table: the next request has it", size=1)
def temporary_table_leaks(stage: Stage) -> Verdict:
    leave = ["CREATE TEMP TABLE scratch (id int)"]
    return _reaches_next(stage, leave, "SELECT to_regclass('pg_temp.scratch')::text", None)


@case("SET TIME ZONE: the next request has it", size=1, database={"TIME_ZONE": "Asia/Tokyo"})
def time_zone_leaks(stage: Stage) -> Verdict:
    ask = "SELECT current_setting('TimeZone')"
    before: list[Any] = []
    stage.request(lambda: before.append(stage.query(ask)))
    if before != ["Asia/Tokyo"]:
        return Verdict(False, f"TIME_ZONE ignored: {before}")
    return _reaches_next(stage, ["SET TIME ZONE 'Europe/Paris'"], ask, "Asia/Tokyo")


@case("an advisory lock stays held after the request", size=1)
def advisory_lock_held(stage: Stage) -> Verdict:
    stage.request(lambda: stage.query("SELECT pg_advisory_lock(4711)"))
    if stage.project.sql("SELECT pg_try_advisory_lock(4711)")[0][0]:
        return Verdict(True, "free")
    return Verdict(False, "held")


@case("isolation level and read-only set on the connection", size=1)
def isolation_leaks(stage: Stage) -> Verdict:
    from django.db import connection
    from django.db.backends.postgresql.psycopg_any import IsolationLevel, is_psycopg3

    def change() -> None:
        connection.ensure_connection()
        raw = connection.connection
        raw.isolation_level = IsolationLevel.SERIALIZABLE
        setattr(raw, "read_only" if is_psycopg3 else "readonly", True)

    stage.request(change)
    seen: list[Any] = []
    answer = stage.request(
        lambda: seen.append(
            stage.query(
                "SELECT current_setting('transaction_isolation') || ', read only ' || "
                "current_setting('transaction_read_only')"
            )
        )
    )
    if answer.status != 200:
        return Verdict(False, f"next request: {answer.status}")
    clean = seen == ["read committed, read only off"]
    return Verdict(clean, "clean" if clean else f"sees {seen[0]}")


@case("all connections held: what the next request catches")
def full_pool(stage: Stage) -> Verdict:
    from django.db import OperationalError, connection

    held, done = threading.Barrier(stage.size + 1), threading.Event()

    def hold() -> None:
        stage.query("SELECT 1")
        held.wait(20)
        done.wait(20)
        connection.close()

    threads = [threading.Thread(target=hold) for _ in range(stage.size)]
    for thread in threads:
        thread.start()
    held.wait(20)
    try:
        stage.query("SELECT 1")
        return Verdict(None, "no limit")
    except OperationalError as error:
        return Verdict(True, f"django.db's {type(error).__name__}")
    except Exception as error:  # noqa: BLE001 - that is the question
        return Verdict(False, f"{type(error).__module__}.{type(error).__name__}")
    finally:
        done.set()
        for thread in threads:
            thread.join()
        connection.close()


@case("functions that refuse a proxy: register_uuid, as_string …")
def proxies(stage: Stage) -> Verdict:
    from django.db import connection
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    connection.ensure_connection()
    raw, refused = connection.connection, []
    if is_psycopg3:
        from psycopg import sql
        from psycopg.types import TypeInfo

        calls: dict[str, Any] = {"TypeInfo.fetch": lambda: TypeInfo.fetch(raw, "text")}
    else:
        from psycopg2 import extensions, extras, sql  # type: ignore[no-redef]

        calls = {
            "register_uuid": lambda: extras.register_uuid(conn_or_curs=raw),
            "quote_ident": lambda: extensions.quote_ident("a b", raw),
        }
    calls["Identifier.as_string"] = lambda: sql.Identifier("a b").as_string(raw)
    for name, call in calls.items():
        try:
            call()
        except TypeError:
            refused.append(name)
    return Verdict(not refused, f"refuse: {', '.join(refused)}" if refused else "all work")


@case(
    "eight slow readers of answers; a ninth asks (ReleaseBeforeResponse*)",
    size=4,
    settings={"MIDDLEWARE": ["dbpool_django.middleware.ReleaseBeforeResponse"]},
)
def slow_readers(stage: Stage) -> Verdict:
    stage.serve("finished", lambda: stage.query("SELECT 1"))
    statuses: list[int] = []
    read, ninth_done = threading.Semaphore(0), threading.Event()

    def slowly() -> None:
        status, response = stage.site.start("finished")
        statuses.append(status)
        read.release()
        ninth_done.wait(60)
        response.close()

    def ninth() -> None:
        for _ in range(8):
            read.acquire(timeout=20)
        statuses.append(stage.site.get("finished").status)
        sessions.append(stage.sessions())
        ninth_done.set()

    sessions: list[int] = []
    together([*[slowly] * 8, ninth])
    failed = sum(status != 200 for status in statuses)
    if failed:
        return Verdict(False, f"{failed} of 9 requests: 500")
    good = sessions[0] <= stage.size
    return Verdict(good, f"{sessions[0]} sessions for a size of {stage.size}" if not good else "ok")


@case("four threads query and end without close(); then a request")
def threads_end(stage: Stage) -> Verdict:
    for _ in range(4):
        together([lambda: _swallow(stage)])
        gc.collect()
    status = stage.request(lambda: stage.query("SELECT 1")).status
    sessions = stage.sessions()
    if status != 200:
        return Verdict(False, f"{status}: dead for good")
    good = sessions <= stage.size
    return Verdict(good, f"{sessions} session{'s' * (sessions != 1)}")


def _swallow(stage: Stage) -> None:
    try:
        stage.query("SELECT 1")
    except Exception:  # noqa: BLE001 - the request that follows shows what became of it
        pass
