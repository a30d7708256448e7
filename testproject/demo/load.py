"""The load: customers of a shop, who write down what they asked for and what they were told."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PAUSE_SECONDS = 0.02  # what bounds the load: nobody asks faster than that
PATIENCE_SECONDS = 30.0
LEAVING = 0.02  # the share of requests that open a connection of their own


@dataclass
class Attempt:
    """One order that a customer sent, and the status of the answer: None if there was none."""

    key: str
    items: dict[int, int]
    status: int | None

    @property
    def confirmed(self) -> bool:
        return self.status == 201

    @property
    def refused(self) -> bool:
        return self.status is not None and 400 <= self.status < 500

    @property
    def unanswered(self) -> bool:
        """Whether the customer cannot know: the connection broke, or the answer was a 5xx."""
        return not self.confirmed and not self.refused


@dataclass
class Notes:
    """What one customer, or all of them together, saw."""

    seconds: list[float] = field(default_factory=list)
    refusals: Counter[int] = field(default_factory=Counter)  # as they should be, by status
    failures: Counter[str] = field(default_factory=Counter)  # a 5xx, or no answer at all
    wrong: Counter[str] = field(default_factory=Counter)  # an answer, but not the right one
    attempts: list[Attempt] = field(default_factory=list)
    read_back: int = 0  # orders read right after their 201

    def add(self, other: Notes) -> None:
        self.seconds += other.seconds
        self.refusals += other.refusals
        self.failures += other.failures
        self.wrong += other.wrong
        self.attempts += other.attempts
        self.read_back += other.read_back


class Customer(threading.Thread):
    """Buys, looks and blunders, mostly over one kept-alive connection, until told to stop."""

    def __init__(self, port: int, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"customer-{port}-{number}", daemon=True)
        self.notes = Notes()
        self._stop_asked = stop
        self._random = random.Random(number)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self._plenty: list[int] = []
        self._scarce: list[int] = []

    def run(self) -> None:
        habits: list[tuple[int, Callable[[], None]]] = [
            (30, self._buy),
            (10, self._blunder),
            (20, self._look_at_product),
            (10, self._look_at_products),
            (15, self._look_at_own_order),
            (13, self._look_at_orders),
            (2, self._ask_for_report),
        ]
        weights, actions = zip(*habits, strict=True)
        try:
            while not self._stop_asked.wait(PAUSE_SECONDS):
                if self._random.random() < LEAVING:
                    self._connection.close()  # and come back, to a worker with time perhaps
                if self._plenty:
                    self._random.choices(actions, weights)[0]()
                else:
                    self._look_at_products()
        except Exception as error:  # noqa: BLE001 - a customer who is gone is no quiet success
            self.notes.wrong[f"a customer's own {error!r}"] += 1
        finally:
            self._connection.close()

    # What a customer does

    def _buy(self) -> None:
        chosen = self._random.sample(self._plenty, self._random.randint(1, 3))
        items = {product: self._random.randint(1, 3) for product in chosen}
        order = self._order(_new_key(), items, expected=201)
        # Committed before the answer left, so it has to be there for whoever asks next.
        if order and self._random.random() < 0.3:
            self._look_at(order["id"])

    def _blunder(self) -> None:
        blunder, expected = self._random.choice(
            [
                (self._unknown_product, 422),
                (self._no_quantity, 400),
                (self._more_than_there_is, 409),
                (self._same_key_again, 409),
            ]
        )
        key, items = blunder()
        self._order(key, items, expected)

    def _unknown_product(self) -> tuple[str, dict[int, int]]:
        return _new_key(), {self._any(): 1, 10**9: 1}

    def _no_quantity(self) -> tuple[str, dict[int, int]]:
        return _new_key(), {self._any(): 0}

    def _more_than_there_is(self) -> tuple[str, dict[int, int]]:
        return _new_key(), {self._any(): 1, self._random.choice(self._scarce): 1000}

    def _same_key_again(self) -> tuple[str, dict[int, int]]:
        placed = [attempt.key for attempt in self.notes.attempts if attempt.confirmed]
        if not placed:
            return self._more_than_there_is()
        return self._random.choice(placed), {self._any(): 7}

    def _look_at_product(self) -> None:
        self._get(f"/products/{self._any()}")

    def _look_at_products(self) -> None:
        answer = self._get("/products")
        if answer:
            stocks = {row["id"]: row["stock"] for row in answer["products"]}
            self._plenty = [product for product, stock in stocks.items() if stock > 1000]
            self._scarce = [product for product, stock in stocks.items() if stock <= 1000]

    def _look_at_own_order(self) -> None:
        placed = [attempt.key for attempt in self.notes.attempts if attempt.confirmed]
        if placed:
            self._get(f"/orders/by-key/{self._random.choice(placed)}")

    def _look_at_orders(self) -> None:
        self._get("/orders")

    def _look_at(self, order_id: int) -> None:
        if self._get(f"/orders/{order_id}"):
            self.notes.read_back += 1

    def _ask_for_report(self) -> None:
        self._get("/report")

    def _any(self) -> int:
        return self._random.choice(self._plenty)

    # How it is sent, and noted

    def _get(self, path: str) -> Any:
        _, answer = self._ask("GET", path, None, expected=200)
        return answer

    def _order(self, key: str, items: dict[int, int], expected: int) -> Any:
        order = {
            "key": key,
            "items": [{"product": p, "quantity": quantity} for p, quantity in items.items()],
        }
        status, answer = self._ask("POST", "/orders", order, expected)
        self.notes.attempts.append(Attempt(key, items, status))
        if status != 201:
            if status == expected:
                self.notes.refusals[status] += 1
            return None
        if answer and answer["key"] != key:
            self.notes.wrong["somebody else's order"] += 1
            return None
        return answer

    def _ask(self, method: str, path: str, body: Any, expected: int) -> tuple[int | None, Any]:
        """Return status and JSON; (None, None) if there was no answer. Never sends twice."""
        begin = time.monotonic()
        status, answer = None, None
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            self._connection.request(method, path, body and json.dumps(body), headers)
            response = self._connection.getresponse()
            content = response.read()
            status = response.status
            if status == expected:
                answer = json.loads(content)
            elif status >= 500:
                self.notes.failures[str(status)] += 1
            else:
                self.notes.wrong[f"{status} instead of {expected}"] += 1
        except (OSError, http.client.HTTPException) as error:
            self.notes.failures[type(error).__name__] += 1
            self._connection.close()  # the next request opens it again
        except ValueError:
            self.notes.wrong[f"{status} without JSON"] += 1
        self.notes.seconds.append(time.monotonic() - begin)
        return status, answer


def _new_key() -> str:
    return uuid.uuid4().hex


class Load:
    """The customers of one shop."""

    def __init__(self, port: int, customers: int) -> None:
        self._stop_asked = threading.Event()
        self._customers = [Customer(port, n, self._stop_asked) for n in range(customers)]

    def start(self) -> None:
        for customer in self._customers:
            customer.start()

    def stop(self) -> None:
        """Let every customer finish what is under way."""
        self._stop_asked.set()
        for customer in self._customers:
            customer.join()

    def requests(self) -> int:
        """Return how many requests were made so far."""
        return sum(len(customer.notes.seconds) for customer in self._customers)

    def notes(self) -> Notes:
        """Return what they all saw; call it after stop()."""
        together = Notes()
        for customer in self._customers:
            together.add(customer.notes)
        return together
