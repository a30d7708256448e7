"""The shop as a Flask app, over the tables of the Django one: `gunicorn "flask_app:create_app()"`.

Nothing here commits. A request that answers with a status below 400 is committed when it ends,
before its answer leaves; `abort(409)` and every other error roll back what the request wrote.
"""

from __future__ import annotations

import os
from datetime import timezone
from typing import Any

from flask import Blueprint, Flask, abort, current_app, request, url_for
from flask.typing import ResponseReturnValue
from psycopg2 import OperationalError
from psycopg2.extras import RealDictCursor
from werkzeug.exceptions import HTTPException

from dbpool_flask import DBPool
from order_form import KEY, FormError, parse_order

db = DBPool()
shop = Blueprint("shop", __name__)


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["DBPOOL_URL"] = os.environ.get("DBPOOL_URL", "postgresql:///shop")
    # 8 threads of a worker share 4 connections: a request holds one for part of its time only.
    app.config["DBPOOL_OPTIONS"] = {"max_size": 4}
    app.config["REPORT_SECONDS"] = float(os.environ.get("SHOP_REPORT_SECONDS", "0.2"))
    db.init_app(app)  # opens nothing yet; answers /healthz/db from now on
    app.register_blueprint(shop)
    return app


def fetch(sql: str, *parameters: Any) -> list[dict[str, Any]]:
    with db.connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(sql, parameters)
        return [dict(row) for row in cursor]


def fetch_one(sql: str, *parameters: Any) -> dict[str, Any] | None:
    rows = fetch(sql, *parameters)
    return rows[0] if rows else None


def execute(sql: str, *parameters: Any) -> None:
    with db.connection.cursor() as cursor:
        cursor.execute(sql, parameters)


@shop.get("/products")
def product_list() -> ResponseReturnValue:
    return {"products": fetch("SELECT id, name, price_cents, stock FROM shop_product ORDER BY id")}


@shop.get("/products/<int:product_id>")
def product_detail(product_id: int) -> ResponseReturnValue:
    product = fetch_one(
        "SELECT id, name, price_cents, stock FROM shop_product WHERE id = %s", product_id
    )
    return product or abort(404)


ORDERS = """
    SELECT o.id, o.key, o.created_at, coalesce(sum(i.quantity * i.price_cents), 0) AS total_cents
    FROM shop_order o LEFT JOIN shop_orderitem i ON i.order_id = o.id
"""


@shop.get("/orders")
def order_list() -> ResponseReturnValue:
    newest = fetch(ORDERS + "GROUP BY o.id ORDER BY o.id DESC LIMIT 20")
    return {"orders": [order_head(order) for order in newest]}


@shop.get("/orders/<int:order_id>")
def order_detail(order_id: int) -> ResponseReturnValue:
    return order_with_items(fetch_one(ORDERS + "WHERE o.id = %s GROUP BY o.id", order_id))


@shop.get("/orders/by-key/<key>")
def order_by_key(key: str) -> ResponseReturnValue:
    if not KEY.fullmatch(key):
        abort(404)
    return order_with_items(fetch_one(ORDERS + "WHERE o.key = %s GROUP BY o.id", key))


def order_with_items(order: dict[str, Any] | None) -> dict[str, Any]:
    if order is None:
        abort(404)
    items = fetch(
        "SELECT product_id AS product, quantity, price_cents"
        " FROM shop_orderitem WHERE order_id = %s ORDER BY id",
        order["id"],
    )
    return order_head(order) | {"items": items}


def order_head(order: dict[str, Any]) -> dict[str, Any]:
    return order | {"created_at": order["created_at"].astimezone(timezone.utc).isoformat()}


@shop.post("/orders")
def create_order() -> ResponseReturnValue:
    try:
        form = parse_order(request.get_data())
    except FormError as error:
        abort(400, str(error))

    # `ON CONFLICT` because a failed INSERT would leave the transaction of no further use.
    order = fetch_one(
        "INSERT INTO shop_order (key) VALUES (%s) ON CONFLICT (key) DO NOTHING RETURNING id",
        form.key,
    )
    if order is None:
        abort(409, f"there is an order with the key {form.key} already")

    # Locked in the order of their ids, here as everywhere, so that two orders never deadlock.
    for product_id, quantity in form.quantities.items():
        product = fetch_one(
            "SELECT price_cents, stock FROM shop_product WHERE id = %s FOR UPDATE", product_id
        )
        if product is None:
            abort(422, f"there is no product {product_id}")  # rolls back the order, too
        if product["stock"] < quantity:
            abort(409, f"{product['stock']} of product {product_id} left, not {quantity}")
        execute("UPDATE shop_product SET stock = stock - %s WHERE id = %s", quantity, product_id)
        item = (order["id"], product_id, quantity, product["price_cents"])
        execute(
            "INSERT INTO shop_orderitem (order_id, product_id, quantity, price_cents)"
            " VALUES (%s, %s, %s, %s)",
            *item,
        )

    location = url_for("shop.order_detail", order_id=order["id"])
    return order_detail(order["id"]), 201, {"Location": location}


@shop.get("/report")
def report() -> ResponseReturnValue:
    """The ten products that earned most; slow, as if over years of orders."""
    execute("SELECT pg_sleep(%s)", current_app.config["REPORT_SECONDS"])
    best = fetch("""
        SELECT p.id, p.name, coalesce(sum(i.quantity), 0) AS units,
               coalesce(sum(i.quantity * i.price_cents), 0) AS revenue_cents
        FROM shop_product p LEFT JOIN shop_orderitem i ON i.product_id = p.id
        GROUP BY p.id ORDER BY revenue_cents DESC, p.id LIMIT 10
    """)
    return {"best": best}


@shop.app_errorhandler(HTTPException)
def error_as_json(error: HTTPException) -> ResponseReturnValue:
    # What fails after the view, as a commit may, comes as a 500 with its cause inside.
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, OperationalError):
        return database_unavailable(cause)
    return {"error": error.description}, error.code or 500


@shop.app_errorhandler(OperationalError)
def database_unavailable(error: OperationalError) -> ResponseReturnValue:
    """Answer 503 where a request failed for want of a database or of a free connection.

    The client does not know then whether its order was placed. It may look by the order's key, or
    send the order again: the key is unique.
    """
    current_app.logger.error("%s %s: %s", request.method, request.path, error)
    message = {"error": "the database did not answer, try again with the same key"}
    return message, 503, {"Retry-After": "1"}
