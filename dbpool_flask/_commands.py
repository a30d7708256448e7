"""`flask dbpool status` and `flask dbpool check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from flask.cli import AppGroup

from dbpool.adapters import explained, monotonic

if TYPE_CHECKING:
    from dbpool import ConnectionPool

    from ._app import AppState

__all__ = ["commands"]

OK, DEGRADED, DOWN = 0, 1, 2


def commands(state: AppState) -> AppGroup:
    """Return the command group of one app."""
    group = AppGroup("dbpool", help="The app's database connection pools.")

    @group.command("status")
    def status() -> None:
        """Show each pool's settings, as a worker of this app would have them."""
        for name, pool in state.pools().items():
            click.echo(f"{name}: {_settings(pool)}")

    @group.command("check")
    @click.pass_context
    def check(context: click.Context) -> None:
        """Connect to each database; exit with 0 (ok), 1 (read-only) or 2 (down)."""
        results = {
            name: _check(pool, name == state.replica) for name, pool in state.pools().items()
        }
        for name, (_, said) in results.items():
            click.echo(f"{name}: {said}")
        context.exit(max(code for code, _ in results.values()))

    return group


def _settings(pool: ConnectionPool) -> str:
    return (
        f"driver {pool.driver.name}, min_size {pool.min_size}, max_size {pool.max_size}, "
        f"timeout {pool.timeout:g} s"
    )


def _check(pool: ConnectionPool, is_replica: bool) -> tuple[int, str]:
    """Connect and ask; for the operator's own terminal, so with host, port and driver's words."""
    started = monotonic()
    try:
        with pool.connection() as conn:
            connected = monotonic()
            writable = pool.driver.probe(conn)
            answered = monotonic()
    except Exception as error:
        reason, said = explained(pool, error)
        return DOWN, f"down ({reason}), {said}"
    times = (
        f"connected in {(connected - started) * 1000:.1f} ms, "
        f"answered in {(answered - connected) * 1000:.1f} ms"
    )
    if is_replica:  # which nobody writes on, whether it could be or not
        return OK, f"ok, a replica, {times}"
    return (OK, f"ok, {times}") if writable else (DEGRADED, f"read-only, {times}")
