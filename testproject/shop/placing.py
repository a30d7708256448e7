"""Placing an order: the one thing in this shop that writes."""

from __future__ import annotations

from order_form import OrderForm
from shop.models import Order, OrderItem, Product


class Refused(Exception):
    """The order cannot be placed; `status` is the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def place_order(form: OrderForm) -> Order:
    """Write the order and take its items from stock.

    Call it in `transaction.atomic()`: what it wrote before it raised Refused has to go.
    """
    order, created = Order.objects.get_or_create(key=form.key)
    if not created:
        raise Refused(409, f"there is an order with the key {form.key} already")

    # Locked in the order of their ids, here as everywhere, so that two orders never deadlock.
    wanted = Product.objects.select_for_update().filter(pk__in=form.quantities).order_by("pk")
    products = {product.pk: product for product in wanted}
    items = []
    for product_id, quantity in form.quantities.items():
        product = products.get(product_id)
        if product is None:
            raise Refused(422, f"there is no product {product_id}")
        if product.stock < quantity:
            raise Refused(409, f"{product.stock} of product {product_id} left, not {quantity}")
        product.stock -= quantity
        product.save(update_fields=["stock"])
        items.append(
            OrderItem(
                order=order, product=product, quantity=quantity, price_cents=product.price_cents
            )
        )
    OrderItem.objects.bulk_create(items)
    return order
