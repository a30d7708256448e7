"""`manage.py dbpool`: what the pool of a database is set to, and what it costs here."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections

from dbpool.adapters import explained
from dbpool_django import _inspection

__all__ = ["Command"]


class Command(BaseCommand):
    """Tell settings, arithmetic and measured times of one alias."""

    help = (
        "Shows a pool's settings, how many sessions its processes can open against what the "
        "server allows, and measured times. It looks at this process only: the pools of running "
        "servers cannot be seen from a command."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the command's options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias in DATABASES")
        parser.add_argument("--json", action="store_true", help="one JSON object")
        parser.add_argument("--test", type=int, default=50, metavar="N", help="rounds to measure")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask the server and print."""
        alias = options["database"]
        if alias not in connections:
            raise CommandError(f"There is no {alias!r} in DATABASES: {', '.join(connections)}.")
        if options["test"] < 1:
            raise CommandError("--test takes a number of rounds, 1 or more.")
        wrapper: Any = connections[alias]
        if getattr(wrapper, "pool", None) is None or not hasattr(wrapper, "_dbpool_stamp"):
            raise CommandError(f"{alias!r} has no pool: its ENGINE or OPTIONS say so.")
        try:
            found = _report(wrapper, options["test"])
        except OperationalError as error:
            reason, said = explained(wrapper.pool, error.__cause__ or error)
            raise CommandError(f"{alias!r} is down ({reason}), {said}") from None
        self.stdout.write(json.dumps(found) if options["json"] else _text(found))


def _report(wrapper: Any, rounds: int) -> dict[str, Any]:
    processes, most = _inspection.sessions_at_most(wrapper)
    facts = _inspection.server_facts(wrapper)
    driver = wrapper.Database
    return {
        "alias": wrapper.alias,
        "driver": f"{driver.__name__} {driver.__version__.split()[0]}",
        "server": dataclasses.asdict(facts),
        "options": _inspection.effective_options(wrapper),
        "processes": processes,
        "sessions_at_most": most,
        "room": facts.room,
        "time_zone": wrapper.timezone_name,
        "look_works": _inspection.looks_work(wrapper),
        "milliseconds": dataclasses.asdict(_inspection.measure(wrapper, rounds)),
    }


def _text(found: dict[str, Any]) -> str:
    server, times, options = found["server"], found["milliseconds"], found["options"]
    most, room = found["sessions_at_most"], found["room"]
    connect, ping, checkout = times["connect"], times["ping"], times["checkout"] * 1000
    lines = [
        _line(
            found["alias"],
            f"{found['driver']}, PostgreSQL {server['version']}",
            ", behind a connection pooler" if server["pooler"] else "",
        ),
        _line(
            "sessions",
            f"{found['processes']} processes x {options['max_size']} = {most} at most, room for "
            f"{room}: {'fits' if most <= room else 'DOES NOT FIT'}",
        ),
        _line(
            "",
            f"({server['max_connections']} max_connections, {server['reserved']} reserved, "
            f"{server['others']} others open)",
        ),
        _line(
            "times",
            f"connect {connect:.2f} ms, round trip {ping:.3f} ms, "
            f"taking and giving back {checkout:.0f} µs",
        ),
        _line("time zone", f"{found['time_zone']} (server: {server['time_zone']})"),
        _line(
            "look",
            f"dead connections are {'' if found['look_works'] else 'NOT '}seen without a round "
            "trip",
        ),
        *(_line(name, repr(value)) for name, value in sorted(options.items())),
        "This process only: the pools of running servers cannot be seen from a command.",
    ]
    return "\n".join(lines)


def _line(name: str, *parts: str) -> str:
    return f"{name:<19}{''.join(parts)}"
