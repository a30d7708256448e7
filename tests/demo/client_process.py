"""One shop behind its framework's test client, in a process of its own; run by `shop_client.py`.

Django's settings can be set once per process, so the tests of the shop do not meet other tests of
Django. Reads one JSON object per line: {"method", "path", "body"}; answers each with one.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def django_client() -> Any:
    import django
    from django.test import Client
    from django.test.utils import setup_test_environment

    django.setup()
    setup_test_environment()
    client = Client(raise_request_exception=False)

    def ask(method: str, path: str, body: str) -> Any:
        answer = client.generic(method, path, body, content_type="application/json")
        return answer.status_code, dict(answer.headers), answer.content.decode()

    return ask


def flask_client() -> Any:
    from flask_app import create_app

    client = create_app().test_client()

    def ask(method: str, path: str, body: str) -> Any:
        answer = client.open(path, method=method, data=body, content_type="application/json")
        return answer.status_code, dict(answer.headers), answer.text

    return ask


def main() -> None:
    ask = {"Django": django_client, "Flask": flask_client}[sys.argv[1]]()
    for line in sys.stdin:
        print(json.dumps(ask(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
