from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from shop.models import Product


class Command(BaseCommand):
    help = "Put products on the shelves: many that never run out, and one that does."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--products", type=int, default=50)
        parser.add_argument("--stock", type=int, default=1_000_000)

    @transaction.atomic
    def handle(self, *args: Any, products: int, stock: int, **options: Any) -> None:
        shelf = [
            Product(name=f"Product {number}", price_cents=100 + 25 * number, stock=stock)
            for number in range(1, products + 1)
        ]
        shelf.append(Product(name="The last three", price_cents=9900, stock=3))
        Product.objects.bulk_create(shelf)
        self.stdout.write(f"{len(shelf)} products")
