"""How both shops run; gunicorn reads this file by itself when it is started in this folder.

    gunicorn shop_django.wsgi
    gunicorn "flask_app:create_app()"

2 workers x 8 threads over 4 connections each: at most 8 sessions on the server, plus one spare
per worker for /healthz/db. A restart by HUP doubles that while the old workers finish.
"""

from __future__ import annotations

import os
from typing import Any

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 8
timeout = 30
graceful_timeout = 10
keepalive = 5
# Its default place is one per user, and two shops on one host would meet there.
control_socket_disable = True


def post_fork(server: Any, worker: Any) -> None:
    """Record what the pools open and close, if a folder for that is named (the demo does)."""
    if folder := os.environ.get("SHOP_POOL_EVENTS"):
        from pool_events import record

        record(folder)
