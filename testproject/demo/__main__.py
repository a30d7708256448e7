"""Starts a database and both shops, loads them for a while, and gives an account of it.

Ends with status 0 if every order is where it should be and no limit was broken, else with 1.
Everything it started is stopped at the end, on Ctrl-C and on failure, too.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial

from testproject.demo import balance, table
from testproject.demo.load import Load
from testproject.demo.progress import Progress
from testproject.demo.servers import (
    APPS,
    DATABASE,
    STOCK,
    App,
    AppServer,
    environment_of,
    get,
    make_shop,
)
from testproject.demo.witness import Ended, HealthWatch, Observer, PoolEvents, SessionWatch
from testproject.postgres import PostgresServer, PostgresUnavailable

CUSTOMERS = 12  # per shop: more than its 8 connections, fewer than its 16 threads
SHOWN = 20  # problems, of possibly thousands


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testproject.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=20.0, help="of load (default: 20)")
    parser.add_argument("--keep", action="store_true", help="keep the shops open until Ctrl-C")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _demo(options.seconds, options.keep)
    except KeyboardInterrupt:
        print("\nInterrupted; everything is stopped.")
        return 130
    except PostgresUnavailable as error:
        sys.exit(str(error))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _demo(seconds: float, keep: bool) -> int:
    progress = Progress(sys.stdout)
    with ExitStack() as running:
        progress.show("Starting PostgreSQL …")
        server = running.enter_context(PostgresServer())
        progress.show("Making the shop: migrate, seed …")
        make_shop(server)
        folder = server.directory / "shops"  # removed with it, whatever ends the demo
        folder.mkdir()
        progress.show("Starting both shops under gunicorn …")
        shops = [
            running.enter_context(AppServer(app, environment_of(app, server), folder))
            for app in APPS
        ]
        for shop in shops:
            shop.wait_until_healthy()
            progress.say(f"{shop.app.name} shop: {shop.url}/products  {shop.url}/healthz/db")

        problems = _load_and_account(server, shops, seconds, progress)
        if keep:
            progress.say(f"Both shops stay open until Ctrl-C. Their database: {server.url('shop')}")
            try:
                signal.pause()
            except KeyboardInterrupt:
                progress.say("")
        problems += _close(server, shops, progress)
    for problem in problems[:SHOWN]:
        print(f"WRONG: {problem}")
    if len(problems) > SHOWN:
        print(f"WRONG: and {len(problems) - SHOWN} more like these")
    if not problems:
        print("The table balances, and no limit was broken.")
    return 1 if problems else 0


def _load_and_account(
    server: PostgresServer, shops: list[AppServer], seconds: float, progress: Progress
) -> list[str]:
    """Run the load, print the table, and return what is wrong with it."""
    dsn = server.dsn(dbname=DATABASE)
    loads = {shop.app: Load(shop.port, CUSTOMERS) for shop in shops}
    healths = {shop.app: HealthWatch(shop) for shop in shops}
    sessions = SessionWatch(dsn)
    begin = time.monotonic()
    with ExitStack() as running:
        watched: list[SessionWatch | HealthWatch | Load]
        watched = [sessions, *healths.values(), *loads.values()]
        for each in watched:
            each.start()
            running.callback(each.stop)  # the load first, then those who watch it
        progress.say(f"{CUSTOMERS} customers in each shop, for {seconds:g} s …")
        ended = _wait(seconds, dsn, loads, sessions, progress)
    seconds = time.monotonic() - begin

    progress.show("Settling accounts …")
    with Observer(dsn) as observer:
        observer.wait_until_idle()
    stored = balance.Stored.read(dsn, STOCK)
    accounts = []
    for shop in shops:
        notes = loads[shop.app].notes()
        events = PoolEvents.read(shop.events)
        settled = balance.settle(notes.attempts, stored, partial(_look_up, shop))
        accounts.append(
            table.Account(
                app=shop.app,
                seconds=seconds,
                notes=notes,
                events=events,
                most_sessions=sessions.most[shop.app.role],
                most_spares=sessions.most_spares[shop.app.role],
                health=healths[shop.app].answers,
                balance=settled,
                sessions_ended=int(ended is not None and ended.role == shop.app.role),
            )
        )
    progress.say(table.render(accounts))
    attempts = [attempt for account in accounts for attempt in account.notes.attempts]
    problems = [problem for account in accounts for problem in account.problems()]
    return problems + balance.strangers(attempts, stored)


def _wait(
    seconds: float, dsn: str, loads: dict[App, Load], sessions: SessionWatch, progress: Progress
) -> Ended | None:
    """Let the load run, and end one session of a pool on the way."""
    begin = time.monotonic()
    ended = None
    with Observer(dsn) as observer:
        while (passed := time.monotonic() - begin) < seconds:
            if not ended and passed > seconds * 0.4 and (ended := observer.end_one_session()):
                app = next(app for app in APPS if app.role == ended.role)
                progress.say(f"{passed:4.1f} s: ended a session of {app.name} ({ended.state})")
            counts = ", ".join(
                f"{app.name} {load.requests()} requests ({sessions.now[app.role]} connections)"
                for app, load in loads.items()
            )
            progress.show(f"{passed:4.1f} s of {seconds:g}: {counts}")
            time.sleep(0.2)
    return ended


def _look_up(shop: AppServer, key: str) -> bool | None:
    """Ask the shop for an order, as a customer does who got no answer."""
    status, _ = get(shop.port, f"/orders/by-key/{key}", timeout=10.0)
    return {200: True, 404: False}.get(status)


def _close(server: PostgresServer, shops: list[AppServer], progress: Progress) -> list[str]:
    """Stop both shops and return what they left behind."""
    progress.show("Stopping …")
    problems = []
    for shop in shops:
        if status := shop.stop():
            problems.append(f"{shop.app.name}: gunicorn ended with status {status}")
    with Observer(server.dsn()) as observer:
        if left := observer.wait_until_gone():
            problems.append(f"{left} sessions of the shops were left behind")
    progress.clear()
    return problems


if __name__ == "__main__":
    sys.exit(main())
