"""The shop's three tables. The Flask app works on the same ones."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q, Sum
from django.db.models.functions import Coalesce, Now


class Product(models.Model):
    name = models.CharField(max_length=100)
    price_cents = models.PositiveIntegerField()
    stock = models.PositiveIntegerField()

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.pk,
            "name": self.name,
            "price_cents": self.price_cents,
            "stock": self.stock,
        }


class OrderQuerySet(models.QuerySet["Order"]):
    def with_total(self) -> OrderQuerySet:
        """Add `total_cents`, the sum over the items."""
        amount = F("items__quantity") * F("items__price_cents")
        return self.annotate(total_cents=Coalesce(Sum(amount), 0))


class Order(models.Model):
    # Made by the client and sent again with a retry, so that an order whose answer was lost on
    # the way is not placed twice.
    key = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_default=Now())

    objects = OrderQuerySet.as_manager()

    def as_json(self) -> dict[str, Any]:
        """Return the order's head; the query set needs `with_total()`."""
        return {
            "id": self.pk,
            "key": self.key,
            "created_at": self.created_at.isoformat(),
            "total_cents": self.total_cents,
        }

    def as_json_with_items(self) -> dict[str, Any]:
        return self.as_json() | {"items": [item.as_json() for item in self.items.order_by("pk")]}


class OrderItem(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="items")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="order_items")
    quantity = models.PositiveIntegerField()
    price_cents = models.PositiveIntegerField()  # what it cost on that day

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(quantity__gte=1), name="shop_orderitem_some"),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "product": self.product_id,
            "quantity": self.quantity,
            "price_cents": self.price_cents,
        }
