"""Which statements leave something in the session, by their text (`reset="auto"`)."""

from __future__ import annotations

import pytest

from tests.support.inside import leaves


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
