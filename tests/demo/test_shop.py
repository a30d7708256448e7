"""Both shops, through their frameworks' test clients: the same requests, the same answers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from testproject.demo.servers import APPS, App
from testproject.order_form import FormError, parse_order
from tests.demo.conftest import ShopDatabase
from tests.demo.shop_client import Answer, ShopClient, TestClient, order

SCARCE = 6  # product 6 has three left, the others a hundred


@pytest.fixture(scope="module")
def database(app: App, shop_databases: Callable[[], Any]) -> Iterator[ShopDatabase]:
    with shop_databases() as made:
        yield made


@pytest.fixture(scope="module")
def shop(app: App, database: ShopDatabase) -> Iterator[ShopClient]:
    client = TestClient(app, database.variables)
    yield client
    client.close()


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def test_products_are_listed_with_price_and_stock(shop: ShopClient) -> None:
    answer = shop.get("/products")
    assert answer.status == 200
    products = answer.json["products"]
    assert [product["id"] for product in products] == [1, 2, 3, 4, 5, 6]
    assert shop.get("/products/6").json == products[5]
    assert products[5] == {"id": 6, "name": "The last three", "price_cents": 9900, "stock": 3}


def test_an_order_is_there_when_its_answer_is(
    shop: ShopClient, database: ShopDatabase, key: str
) -> None:
    orders, items, stock = database.counts()
    answer = shop.post_order(order(key, (2, 3), (1, 1)))
    assert answer.status == 201
    assert database.counts() == (orders + 1, items + 2, stock - 4)

    placed = answer.json
    assert answer.headers["Location"] == f"/orders/{placed['id']}"
    assert placed["key"] == key
    assert datetime.fromisoformat(placed["created_at"]).utcoffset() is not None
    assert placed["total_cents"] == 1 * 125 + 3 * 150
    assert placed["items"] == [
        {"product": 1, "quantity": 1, "price_cents": 125},
        {"product": 2, "quantity": 3, "price_cents": 150},
    ]


def test_an_order_is_found_by_id_by_key_and_in_the_list(shop: ShopClient, key: str) -> None:
    placed = shop.post_order(order(key, (1, 1))).json
    assert shop.get(f"/orders/{placed['id']}").json == placed
    assert shop.get(f"/orders/by-key/{key}").json == placed
    newest = shop.get("/orders").json["orders"][0]
    assert newest == {name: placed[name] for name in ("id", "key", "created_at", "total_cents")}


INVALID: dict[str, tuple[int, Any]] = {
    "no JSON": (400, "{"),
    "nested beyond reason": (400, "[" * 100_000),
    "a list": (400, []),
    "no key": (400, {"items": [{"product": 1, "quantity": 1}]}),
    "an empty key": (400, order("", (1, 1))),
    "a key of 65": (400, order("k" * 65, (1, 1))),
    "a NUL in the key": (400, order("a\0b", (1, 1))),
    "no items": (400, order("K")),
    "no integer": (400, order("K", (1, "1"))),
    "a truth value": (400, order("K", (1, True))),
    "no quantity": (400, order("K", (1, 0))),
    "a negative quantity": (400, order("K", (1, 1), (2, -1))),
    "a huge quantity": (400, order("K", (1, 2**40))),
    "one product twice": (400, order("K", (1, 1), (1, 1))),
    "an unknown product": (422, order("K", (1, 1), (7, 1))),
    "a product beyond any integer": (422, order("K", (1, 1), (2**70, 1))),
    "more than there is": (409, order("K", (1, 1), (SCARCE, 4))),
}


@pytest.mark.parametrize(("status", "body"), INVALID.values(), ids=INVALID.keys())
def test_nothing_stays_of_an_order_that_is_refused(
    shop: ShopClient, database: ShopDatabase, status: int, body: Any
) -> None:
    before = database.counts()
    answer = shop.post_order(body)
    assert answer.status == status
    assert list(answer.json) == ["error"]
    assert database.counts() == before
    assert shop.get("/orders/by-key/K").status == 404


@pytest.mark.parametrize("body", [b"", b"\xff", b'{"key": "\xff"}', b"\0", b"1" * 10_000])
def test_a_body_of_any_bytes_is_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(FormError, match="the body is not"):
        parse_order(body)


def test_an_order_sent_again_is_refused_and_the_first_one_stays(
    shop: ShopClient, database: ShopDatabase, key: str
) -> None:
    placed = shop.post_order(order(key, (1, 1))).json
    before = database.counts()
    assert shop.post_order(order(key, (1, 1))).status == 409
    assert shop.post_order(order(key, (2, 5))).status == 409
    assert database.counts() == before
    assert shop.get(f"/orders/by-key/{key}").json == placed


def test_the_shop_sells_what_it_has_and_no_more(shop: ShopClient, database: ShopDatabase) -> None:
    ((left,),) = database.rows(f"SELECT stock FROM shop_product WHERE id = {SCARCE}")
    for _ in range(left):
        assert shop.post_order(order(uuid.uuid4().hex, (SCARCE, 1))).status == 201
    assert shop.post_order(order(uuid.uuid4().hex, (SCARCE, 1))).status == 409
    assert shop.get(f"/products/{SCARCE}").json["stock"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/products/7",
        "/products/99999999999999999999",
        "/orders/999999",
        "/orders/by-key/nobody",
        "/orders/by-key/%00",
        "/nowhere",
    ],
)
def test_what_is_not_there_is_a_404_in_json(shop: ShopClient, path: str) -> None:
    answer = shop.get(path)
    assert answer.status == 404
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/products"), ("DELETE", "/orders"), ("POST", "/report")]
)
def test_a_method_that_is_not_meant_is_a_405(shop: ShopClient, method: str, path: str) -> None:
    assert shop.ask(method, path).status == 405


def test_the_report_names_the_best_sold(shop: ShopClient, database: ShopDatabase, key: str) -> None:
    shop.post_order(order(key, (5, 50)))
    ((units,),) = database.rows("SELECT sum(quantity) FROM shop_orderitem WHERE product_id = 5")
    best = shop.get("/report").json["best"]
    assert len(best) == 6
    assert best == sorted(best, key=lambda row: (-row["revenue_cents"], row["id"]))
    (fifth,) = (row for row in best if row["id"] == 5)
    expected = {"id": 5, "name": "Product 5", "units": units, "revenue_cents": units * 225}
    assert fifth == expected


def test_health_says_pass(shop: ShopClient) -> None:
    answer = shop.get("/healthz/db")
    assert (answer.status, answer.text) == (200, '{"status":"pass"}\n')


def test_without_its_database_the_shop_says_503(app: App, database: ShopDatabase) -> None:
    nowhere = database.variables
    nowhere["SHOP_DB_NAME"] = "no_such_shop"
    nowhere["DBPOOL_URL"] = nowhere["DBPOOL_URL"].replace(database.name, "no_such_shop")
    shop = TestClient(app, nowhere)
    try:
        for answer in (shop.get("/products"), shop.post_order(order("K", (1, 1)))):
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert list(answer.json) == ["error"]
        assert shop.get("/healthz/db").status == 503
    finally:
        shop.close()


LOST_AT_COMMIT = """
    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(60);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER die AFTER INSERT ON shop_order DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (new.key = 'doomed') EXECUTE FUNCTION die();
"""


def test_an_order_whose_commit_is_cut_off_is_not_confirmed(
    app: App, shop_database: ShopDatabase
) -> None:
    shop_database.rows(LOST_AT_COMMIT)
    before = shop_database.counts()
    shop = TestClient(app, shop_database.variables)
    try:
        doomed = shop.post_order(order("doomed", (1, 1)))
        assert doomed.status == 503
        assert doomed.headers["Retry-After"] == "1"
        assert shop_database.counts() == before
        assert shop.get("/orders/by-key/doomed").status == 404
        assert shop.post_order(order("next", (1, 1))).status == 201
    finally:
        shop.close()


def test_both_shops_give_the_same_answers_to_the_same_requests(
    shop_databases: Callable[[], Any],
) -> None:
    answers: list[list[Any]] = []
    for app in APPS:
        with shop_databases() as database:
            client = TestClient(app, database.variables)
            answers.append([_comparable(answer) for answer in _an_afternoon(client)])
            client.close()
    django, flask = answers
    assert django == flask


def _an_afternoon(shop: ShopClient) -> Iterator[Answer]:
    yield shop.get("/products")
    yield shop.get("/orders")
    yield shop.post_order(order("first", (1, 1), (3, 2)))
    yield shop.post_order(order("first", (1, 1)))
    yield from (shop.post_order(body) for _, body in INVALID.values())
    yield shop.post_order(order("second", (SCARCE, 3)))
    yield shop.post_order(order("third", (SCARCE, 1)))
    yield shop.get("/orders")
    yield shop.get("/orders/by-key/second")
    yield shop.get("/orders/by-key/third")
    yield shop.get("/products/6")
    yield shop.get("/report")
    yield shop.get("/healthz/db")


def _comparable(answer: Answer) -> Any:
    body = answer.json
    if answer.status == 404:
        body = list(body)  # each framework words these itself
    return answer.status, "Location" in answer.headers, _without_ids_and_times(body)


def _without_ids_and_times(value: Any) -> Any:
    # An order that is refused may use up an id, as each framework has its own way to insert.
    if isinstance(value, list):
        return [_without_ids_and_times(one) for one in value]
    if isinstance(value, dict):
        skipped = {"id", "created_at"} if "key" in value else set()
        return {k: _without_ids_and_times(v) for k, v in value.items() if k not in skipped}
    return value
