"""`gunicorn shop_django.wsgi`, from the folder that holds gunicorn.conf.py."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop_django.settings")
application = get_wsgi_application()
