"""What a client may order: the check of a request body, the same for both apps."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_ITEMS = 100
MAX_QUANTITY = 1000


class FormError(ValueError):
    """The body is not an order; the message is a sentence for the client."""


@dataclass(frozen=True)
class OrderForm:
    key: str
    quantities: dict[int, int]  # by product, in ascending order of the products' ids


def parse_order(body: bytes) -> OrderForm:
    """Return the order in `body`, or raise FormError.

    A body looks like {"key": "3f2a…", "items": [{"product": 1, "quantity": 2}, …]}.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise FormError("the body is not JSON") from None
    if not isinstance(data, dict):
        raise FormError("the body is not a JSON object")

    key, items = data.get("key"), data.get("items")
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise FormError("key has to be 1 to 64 letters, digits, dashes or underscores")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
        raise FormError(f"items has to be a list of 1 to {MAX_ITEMS}")

    quantities: dict[int, int] = {}
    for item in items:
        product, quantity = _integers(item)
        if not 1 <= quantity <= MAX_QUANTITY:
            raise FormError(f"quantity has to be 1 to {MAX_QUANTITY}, not {quantity}")
        if product in quantities:
            raise FormError(f"product {product} stands there twice: add its quantities")
        quantities[product] = quantity
    return OrderForm(key, dict(sorted(quantities.items())))


def _integers(item: object) -> tuple[int, int]:
    if isinstance(item, dict):
        product, quantity = item.get("product"), item.get("quantity")
        if type(product) is int and type(quantity) is int:  # a bool is an int to isinstance
            return product, quantity
    raise FormError("an item has to have the integers product and quantity")
