"""The balance: what customers were told, held against what the database has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg2

from testproject.demo.load import Attempt

ORDERS = """
    SELECT o.key, count(DISTINCT o.id),
           jsonb_object_agg(i.product_id, i.quantity) FILTER (WHERE i.id IS NOT NULL)
    FROM shop_order o LEFT JOIN shop_orderitem i ON i.order_id = o.id GROUP BY o.key
"""
TAKEN = "SELECT coalesce(sum(%s - stock), 0) FROM shop_product WHERE stock > 1000"
NOTHING: tuple[int, dict[int, int]] = (0, {})
SOLD = "SELECT coalesce(sum(quantity), 0) FROM shop_orderitem"


@dataclass
class Balance:
    """The account of one app. It balances if `problems` is empty."""

    confirmed: int = 0
    confirmed_there: int = 0  # exactly once, with all its items
    refused: int = 0
    refused_absent: int = 0
    unanswered: int = 0
    unanswered_there: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stored:
    """The orders in the database: by key, how often and with what."""

    orders: dict[str, tuple[int, dict[int, int]]]
    stock_taken: int
    units_sold: int

    @classmethod
    def read(cls, dsn: str, stock: int) -> Stored:
        """Read everything in one snapshot; `stock` is what each product began with."""
        with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            cursor.execute(ORDERS)
            orders = {
                key: (count, {int(product): n for product, n in (items or {}).items()})
                for key, count, items in cursor
            }
            cursor.execute(TAKEN, [stock])
            ((taken,),) = cursor.fetchall()
            cursor.execute(SOLD)
            ((sold,),) = cursor.fetchall()
        connection.close()
        return cls(orders, int(taken), int(sold))


def settle(
    attempts: list[Attempt], stored: Stored, look_up: Callable[[str], bool | None]
) -> Balance:
    """Hold one app's attempts against the database.

    `look_up` asks the app itself for a key, as a customer without an answer does: True if the
    order is there, False if not, None if the app did not say.
    """
    balance = Balance()
    # Whoever sends a key again is refused, and the first order stays: hence keys, not attempts.
    placed = {attempt.key: attempt.items for attempt in attempts if attempt.confirmed}
    for attempt in attempts:
        key = attempt.key
        found = stored.orders.get(key, NOTHING)
        before = (1, placed[key]) if key in placed else NOTHING
        if attempt.confirmed:
            balance.confirmed += 1
            balance.confirmed_there += found == (1, attempt.items)
            right = found == (1, attempt.items)
        elif attempt.refused:
            balance.refused += 1
            balance.refused_absent += found == before
            right = found == before
        else:
            balance.unanswered += 1
            balance.unanswered_there += found != before
            right = found in (before, (1, attempt.items)) and look_up(key) is (found != NOTHING)
        if not right:
            balance.problems.append(
                f"order {key} for {attempt.items} was answered {attempt.status}, and the database"
                f" has it {found[0]} times with {found[1]}"
            )
    return balance


def strangers(all_attempts: list[Attempt], stored: Stored) -> list[str]:
    """Return what is wrong with the database as a whole."""
    problems = []
    ours = {attempt.key for attempt in all_attempts if not attempt.refused}
    if unknown := stored.orders.keys() - ours:
        problems.append(f"{len(unknown)} orders are there that nobody can have placed")
    if stored.stock_taken != stored.units_sold:
        problems.append(
            f"{stored.stock_taken} units left the stock, but {stored.units_sold} were sold"
        )
    return problems
