"""Which statements leave something in the session, by their text (`reset="auto"`)."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.inside import SPOILT, leaves, remembered


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path TO a",
        "set session statement_timeout = 1",
        "SET TIME ZONE 'UTC'",
        "SET ROLE somebody",
        "  /* by whom */ SET x.y = 'z'",
        "-- why\nSET x.y = 'z'",
        "-- why\rSET x.y = 'z'",
        "SELECT $A$ $a$ $A$; SET x.y = 'z'; SELECT $A$ $a$ $A$",
        "SELECT E'\\''; SET x.y = 'z'; SELECT ''",
        "SELECT 1; SET x.y = 'z'",
        "RESET ALL",
        "DISCARD TEMP",
        "LISTEN channel",
        "PREPARE plan AS SELECT 1",
        "CREATE TEMP TABLE t (id int)",
        "CREATE TEMPORARY VIEW v AS SELECT 1",
        "create or replace temp view v as select 1",
        "CREATE LOCAL TEMPORARY TABLE t (id int)",
        "SELECT 1 AS a INTO TEMP t",
        "SELECT 1 INTO TEMPORARY TABLE t",
        "SELECT set_config('a.b', %s, false)",
        "WITH x AS (SELECT SET_CONFIG ('a.b', 'c', false)) SELECT * FROM x",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "BEGIN",
        "START TRANSACTION",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "DO $$ BEGIN PERFORM 1; END $$",
        "DO LANGUAGE plpgsql 'BEGIN END'",
        "LOAD 'auto_explain'",
        "SET SESSION AUTHORIZATION somebody",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "RESET ROLE",
        "UNLISTEN *",
        "DEALLOCATE plan",
        "UPDATE pg_settings SET setting = '1' WHERE name = 'work_mem'",
        'update only "pg_catalog" . "pg_settings" set setting = 1',
        "WITH x AS (SELECT 1) UPDATE pg_settings SET setting = '1'",
        "CREATE TABLE pg_temp.t (id int)",
        "INSERT INTO pg_temp.t VALUES (1)",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
        "CREATE/**/TEMPORARY\n\tSEQUENCE s",
        "DECLARE c NO SCROLL CURSOR\nWITH HOLD FOR SELECT 1",
        'SELECT "set_config"(%s, %s, false)',
        "COPY (SELECT set_config('a.b', 'c', false)) TO STDOUT",
        "SELECT set_limit(0.3)",
        # Comments, one in the other too, and strings that look like them.
        "SET/**/x.y = 'z'",
        "/* a /* b */ c */ SET x.y = 'z'",
        "SELECT '--'; SET x.y = 'z'",
        "SELECT '/*'; /* why */ SET x.y = '*/'",
        "SELECT E'it\\'s'; SET x.y = 'z'",
        "SELECT $a$ ; $b$ $a$; SET x.y = 'z'",
        "SELECT 1;; -- why\n ; SET x.y = 'z'",
        "SELECT 1 INTO /* */ TEMPORARY t",
        # What there are functions for that execute a string.
        "SELECT query_to_xml('SELECT pg_advisory_lock(1)', true, true, '')",
        # When in doubt: a backslash keeps a string open on servers that are set to it, and an
        # identifier may be spelt in numbers.
        "SELECT 'x\\'; SET x.y = 'z' --'",
        'SELECT U&"s\\0065t_config"(1)',
        "SELECT 1; SELECT 'unfinished",
        "SELECT 1 /* unfinished",
        # What nobody here sees into.
        "CALL do_something()",
        "/* by whom */ call do_something(1)",
        "SELECT 1; CALL do_something()",
        # Only a literal `true` is sure to end with its transaction.
        "SELECT set_config('a.b', 'c', %s)",
        "SELECT set_config('a.b', 'c', true AND false)",
        "SELECT set_config('a.b', 'c', 'true')",
        "SELECT set_config('a.b', 'c', true), set_config('a.b', 'd', false)",
        "SELECT set_config('a.b', 'it\\', true), set_config(', false)",
        "SELECT set_config('a.b', (SELECT 'c'), false)",
        # Behind a comment, whichever way; a tracer's are of other words each time.
        "/*traceparent='00-1-01'*/ SET x.y = 'z'",
        "SET x.y = 'z' /*traceparent='00-1-01'*/",
        "SELECT ';\n--'; SET/* /* */ */ x.y = 'z'",
        "SELECT 'a /* b'; SET x.y = 'z' -- */",
        "SELECT 1 INTO --\ntemp t",
    ],
)
def test_statements_that_change_the_session_are_recognised(statement: str) -> None:
    assert leaves(statement)


@pytest.mark.parametrize(
    "statement",
    [
        'SELECT "book"."id" FROM "book" WHERE "book"."title" = %s',
        'UPDATE "book" SET "title" = %s WHERE "id" = %s',
        'INSERT INTO "book" ("title") VALUES (%s) RETURNING "id"',
        "SET LOCAL statement_timeout = 1",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_unlock(1)",
        "PREPARE TRANSACTION 'two-phase'",
        "DECLARE c CURSOR FOR SELECT 1",
        "CREATE TABLE t (id int)",
        "CREATE INDEX temperature ON t (id)",
        'SELECT "temperature" FROM "weather"',
        "SAVEPOINT s1",
        "ROLLBACK TO SAVEPOINT s1",
        "COPY t FROM STDIN",
        "",
        "SET/**/LOCAL x.y = 'z'",
        "SELECT name, setting FROM pg_settings",
        "SELECT '; SET x.y = 1'",
        "SELECT $$; SET x.y = 1$$, $a$; SET $$ x.y = 1$a$",
        "INSERT INTO t VALUES ('it''s; SET x.y = 1')",
        "-- SET x.y = 1\nSELECT 1",
        "SELECT 1 -- ; SET x.y = 1",
        "SELECT 1; /* ; SET x.y = 1 */ UPDATE t SET x = 1",
        "SELECT attempts FROM t /* temp */",
        "SELECT 1; INSERT INTO temperatures VALUES (1)",
        "CREATE TABLE t AS SELECT 'temp' AS temp",
        "DECLARE c CURSOR FOR SELECT 1; SELECT 'with hold'",
        # What row-level security and pghistory send with each request.
        "SELECT set_config('app.tenant', 'acme', true)",
        "SELECT set_config('app.tenant', %s, TRUE)",
        "SELECT set_config('app.tenant', %(tenant)s::text, true), set_config('a.b', $1, true)",
        "SELECT set_config('h.context', '{\"url\": \"/it''s\"}', true); INSERT INTO t VALUES (1)",
        # Comments of tracers, in front or behind, and names with a word of ours in them.
        "/*traceparent='00-1-01',route='a%%2Fb'*/ SELECT 1",
        "SELECT 1 /*traceparent='00-1-01'*/",
        "SELECT 1 /*traceparent='00-1-01'*/;",
        "SELECT 1; /*traceparent='00-1-01'*/",
        "-- by whom\nINSERT INTO t VALUES (%s)",
        "SET LOCAL statement_timeout = 1 /*traceparent='00-1-01'*/",
        'SELECT temperature, attempts, "temp", t.temp, template_id FROM t /*by whom*/',
        "SELECT my_config, pg_size_pretty(1), credit_limit, recall FROM t",
        "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET x = 1",
        "SELECT dblink('host=a', 'SELECT 1')",
    ],
)
def test_ordinary_statements_cost_no_cleaning(statement: str) -> None:
    assert not leaves(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "/* note */ " * 1000 + "VACUUM",
        "VACUUM '" + "''" * 1000,
        "declare " * 1000,
        "VACUUM -- " + "; set local " * 1000,
    ],
)
def test_no_statement_takes_long_to_read(statement: str) -> None:
    # A pattern that can match in many ways takes twice as long for each comment more: it would
    # not come back before the end of the world, and holds the interpreter's lock all the time.
    leaves(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT dblink_connect('other', 'host=b')",
        "SELECT public.dblink_connect_u(%s, %s)",
        "SELECT setseed(0.5)",
        "SELECT query_to_xml('SELECT setseed(0.5)', true, true, '')",
        "SELECT pg_replication_origin_session_setup('other')",
        "LOAD 'auto_explain'",
        "SET x.y = 'z'; LOAD 'auto_explain'",
    ],
)
def test_what_no_command_undoes_is_told_apart(statement: str) -> None:
    assert leaves(statement) == SPOILT


def test_an_object_that_is_no_known_kind_of_statement_counts_as_a_change() -> None:
    assert leaves(object())
    assert leaves(b"SET x.y = 'z'")
    assert not leaves(b"SELECT 1")


TRACE = "traceparent='00-{0:032x}-{0:016x}-01',route='shop%%2Fbooks'"
COLUMNS = ", ".join(f'"shop_book"."column_{number}"' for number in range(10))
SELECT = f'SELECT {COLUMNS} FROM "shop_book" WHERE "shop_book"."temperature" = %s'
TRACED = {
    "in front": f"/*{TRACE}*/ {SELECT}",
    "behind": f"{SELECT} /*{TRACE}*/",
    "behind a semicolon": f"{SELECT}; /*{TRACE}*/",
    "on a line of its own": f"-- {TRACE}\n{SELECT}",
    "not ordinary": f"SET LOCAL statement_timeout = 1 /*{TRACE}*/",
    "set_config": f"SELECT set_config('app.tenant', 'acme', true) /*{TRACE}*/",
}


@pytest.mark.parametrize("place", TRACED)
def test_a_trace_comment_that_is_new_each_time_makes_no_loop(place: str) -> None:
    steps = {_steps(leaves, TRACED[place].format(number)) for number in (1, 2**60)}
    assert max(steps) < 60


def test_a_thousand_placeholders_take_as_many_steps_as_ten() -> None:
    fresh = itertools.count()

    def insert(rows: int) -> str:
        values = ", ".join(["(%s, %s, %s)"] * rows)
        return f'INSERT INTO "temperatures" VALUES {values} /*{TRACE.format(next(fresh))}*/'

    assert _steps(leaves, insert(400)) <= _steps(leaves, insert(4)) < 60


def test_a_text_that_is_sent_again_is_not_read_again() -> None:
    leaves(SELECT)
    assert _steps(remembered, SELECT) == 0


def _steps(function: Callable[..., Any], *args: Any) -> int:
    """Return how many lines of Python a call executes: what a loop over a text shows in."""
    lines = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return lines
