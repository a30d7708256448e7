from __future__ import annotations

from django.urls import path

from shop import views

urlpatterns = [
    path("products", views.product_list),
    path("products/<int:product_id>", views.product_detail),
    path("orders", views.Orders.as_view()),
    path("orders/<int:order_id>", views.order_detail, name="order"),
    path("orders/by-key/<slug:key>", views.order_by_key),
    path("report", views.report),
]
