"""Settings of the Django shop. The two places that concern the pool are marked."""

from __future__ import annotations

import os

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only for a shop that sells nothing")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = ["shop"]

MIDDLEWARE = [
    "dbpool_django.middleware.HealthMiddleware",  # /healthz/db; first, so nothing stands before it
    "django.middleware.common.CommonMiddleware",
    "shop.middleware.DatabaseUnavailable",
]

ROOT_URLCONF = "shop_django.urls"
WSGI_APPLICATION = "shop_django.wsgi.application"
APPEND_SLASH = False
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "dbpool_django.backends.postgresql",  # was django.db.backends.postgresql
        "NAME": os.environ.get("SHOP_DB_NAME", "shop"),
        "USER": os.environ.get("SHOP_DB_USER", ""),
        "PASSWORD": os.environ.get("SHOP_DB_PASSWORD", ""),
        "HOST": os.environ.get("SHOP_DB_HOST", ""),
        "PORT": os.environ.get("SHOP_DB_PORT", ""),
        # 8 threads of a worker share 4 connections: a request holds one for part of its time only.
        "OPTIONS": {"pool": {"max_size": 4}},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
