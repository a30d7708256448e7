"""Why a connect has failed that no server was asked for: libpq refuses one of its options.

libpq tells that in words only, which may be of any language, and by the same error as a refused
connection. So the same options are tried on a host that cannot be there: where libpq gets as far as
that host, in whatever words, it names it; where it does not, an option is at fault, and the one
without which it does get there is the one. No packet is sent, and it takes a tenth of a
millisecond.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from .._shown import is_word, shown
from ..drivers import _hosts
from .base import Mistake

__all__ = ["mistake", "quotes"]

_NEEDS_ROOT = ("verify-ca", "verify-full")
# Not over a local socket, which the host is that cannot be there.
_NETWORK_ONLY = ("disable", "prefer", "require")


def mistake(
    given: Mapping[str, Any],
    elsewhere: Mapping[str, str],
    environ: Mapping[str, str],
    try_out: Callable[[Mapping[str, Any]], str],
) -> Mistake | None:
    """Return which option libpq refuses; None if it refuses none.

    Arguments: `given`, conninfo and kwargs together, libpq's options only; `elsewhere`, what the
    environment and the service file say of hosts, TLS and the service; `try_out`, which connects
    and returns the text of the error.
    """
    whole = {**elsewhere, **given}
    host, hostaddr = (str(whole.get(name) or "") for name in ("host", "hostaddr"))
    if host and hostaddr and host.count(",") != hostaddr.count(","):
        return Mistake("host and hostaddr are lists of different lengths")
    marker = f"/dbpool-{secrets.token_hex(8)}"
    place = {"host": ",".join([marker] * _hosts.count(whole)), "hostaddr": ""}
    options = {name: value for name, value in given.items() if name not in place}
    if options.get("gssencmode") in _NETWORK_ONLY:
        del options["gssencmode"]

    said = try_out({**options, **place})
    if marker in said:
        return _missing_root(whole, environ)
    for name, value in options.items():
        rest = {other: options[other] for other in options if other != name}
        if marker in try_out({**rest, **place}):
            hidden = quotes(said, {name: value})
            why = "" if hidden else f" ({said.strip().splitlines()[0]})"
            return Mistake(f"{name}={shown(value)} is not possible{why}", hidden)
    variables = ", ".join(sorted(name for name in environ if name.startswith("PG")))
    return Mistake(
        "libpq refuses an option, which is in the service file or in one of the PG* variables"
        + (f" ({variables})" if variables else ""),
        True,
    )


def quotes(text: str, given: Mapping[str, Any]) -> bool:
    """Return whether a text has a value in it that is no plain word, and so may be a secret."""
    values = (str(value) for value in given.values() if value not in (None, ""))
    return any(value in text for value in values if not is_word(value))


def _missing_root(given: Mapping[str, Any], environ: Mapping[str, str]) -> Mistake | None:
    """Return whether the file is missing without which no certificate can be verified.

    libpq looks for it when a server has agreed to TLS, and then fails whatever that has sent.
    """
    mode, root = given.get("sslmode"), given.get("sslrootcert")
    hosts = str(given.get("hostaddr") or given.get("host") or "").split(",")
    if mode not in _NEEDS_ROOT or root == "system" or not any(h and h[0] != "/" for h in hosts):
        return None
    if root:
        missing = not os.path.exists(str(root))
        what = "the file that sslrootcert names does not exist"
    else:
        missing = not os.path.exists(os.path.expanduser("~/.postgresql/root.crt"))
        what = "sslrootcert names no file, and ~/.postgresql/root.crt does not exist"
    return Mistake(f"{what}, which sslmode={mode!r} needs", True) if missing else None
