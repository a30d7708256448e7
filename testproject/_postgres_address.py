"""libpq's connection parameters written as a string, as a URL, and for a new role."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

__all__ = ["as_dsn", "as_url", "may_log_in"]


def as_dsn(parameters: Mapping[str, object]) -> str:
    """Return `name=value …`, quoted where a value needs it."""
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in parameters.items())


def as_url(parameters: Mapping[str, object]) -> str:
    """Return a URL; what is neither of its parts becomes a query parameter."""
    rest = {name: str(value) for name, value in parameters.items()}
    user, host, dbname = (quote(rest.pop(p, ""), safe="") for p in ("user", "host", "dbname"))
    secret = f":{quote(rest.pop('password'), safe='')}" if "password" in rest else ""
    port = f":{rest.pop('port')}" if "port" in rest else ""
    query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
    return f"postgresql://{user}{secret}{'@' if user else ''}{host}{port}/{dbname}{query}"


def may_log_in(password: str | None) -> str:
    """Return the options of CREATE ROLE for one that logs in with this password."""
    if password is None:
        return "LOGIN"
    doubled = password.replace("'", "''").replace("\\", "\\\\")
    return f"LOGIN PASSWORD E'{doubled}'"


def _quoted(value: str) -> str:
    if value and all(c.isalnum() or c in "/._-:" for c in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
