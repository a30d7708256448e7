"""Tests as a Django project has them: `python manage.py test`."""

from __future__ import annotations

from typing import Any

from django.test import TestCase, TransactionTestCase

from shop.models import Order, Product

JSON = "application/json"


def order(key: str, product: Product, quantity: int) -> dict[str, Any]:
    return {"key": key, "items": [{"product": product.pk, "quantity": quantity}]}


class OrderTests(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cls.product = Product.objects.create(name="Mug", price_cents=800, stock=2)

    def test_takes_from_stock(self) -> None:
        answer = self.client.post("/orders", order("a", self.product, 2), JSON)
        self.assertEqual(answer.status_code, 201)
        self.assertEqual(answer.json()["total_cents"], 1600)
        self.product.refresh_from_db()
        self.assertEqual(self.product.stock, 0)

    def test_refuses_more_than_there_is(self) -> None:
        answer = self.client.post("/orders", order("a", self.product, 3), JSON)
        self.assertEqual(answer.status_code, 409)
        self.assertFalse(Order.objects.exists())

    def test_lists_in_few_queries(self) -> None:
        with self.assertNumQueries(1):
            self.client.get("/orders")


class CommittedOrderTests(TransactionTestCase):
    def test_an_order_is_one_transaction(self) -> None:
        product = Product.objects.create(name="Mug", price_cents=800, stock=2)
        self.client.post("/orders", order("a", product, 1), JSON)
        answer = self.client.post("/orders", order("a", product, 1), JSON)
        self.assertEqual(answer.status_code, 409)
        product.refresh_from_db()
        self.assertEqual(product.stock, 1)
