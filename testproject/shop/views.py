from __future__ import annotations

import os
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views import View
from django.views.decorators.http import require_GET

from order_form import FormError, parse_order
from shop.models import Order, Product
from shop.placing import Refused, place_order

REPORT_SECONDS = float(os.environ.get("SHOP_REPORT_SECONDS", "0.2"))


@require_GET
def product_list(request: HttpRequest) -> HttpResponse:
    products = Product.objects.order_by("pk")
    return JsonResponse({"products": [product.as_json() for product in products]})


@require_GET
def product_detail(request: HttpRequest, product_id: int) -> HttpResponse:
    return JsonResponse(get_object_or_404(Product, pk=product_id).as_json())


class Orders(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        newest = Order.objects.with_total().order_by("-pk")[:20]
        return JsonResponse({"orders": [order.as_json() for order in newest]})

    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            form = parse_order(request.body)
            with transaction.atomic():
                order = place_order(form)
        except FormError as error:
            return error_response(400, str(error))
        except Refused as error:
            return error_response(error.status, str(error))

        location = reverse("order", args=[order.pk])
        return JsonResponse(order_json(pk=order.pk), status=201, headers={"Location": location})


def order_json(**lookup: Any) -> dict[str, Any]:
    return get_object_or_404(Order.objects.with_total(), **lookup).as_json_with_items()


@require_GET
def order_detail(request: HttpRequest, order_id: int) -> HttpResponse:
    return JsonResponse(order_json(pk=order_id))


@require_GET
def order_by_key(request: HttpRequest, key: str) -> HttpResponse:
    return JsonResponse(order_json(key=key))


@require_GET
def report(request: HttpRequest) -> HttpResponse:
    """The ten products that earned most; slow, as if over years of orders."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [REPORT_SECONDS])
    revenue = F("order_items__quantity") * F("order_items__price_cents")
    best = (
        Product.objects.annotate(
            units=Coalesce(Sum("order_items__quantity"), 0),
            revenue_cents=Coalesce(Sum(revenue), 0),
        )
        .order_by("-revenue_cents", "pk")
        .values("id", "name", "units", "revenue_cents")[:10]
    )
    return JsonResponse({"best": list(best)})


def error_response(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": message}, status=status)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(404, "not found")


def server_error(request: HttpRequest) -> HttpResponse:
    return error_response(500, "internal error")
