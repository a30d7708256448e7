"""What a pool was made with, as its rooms read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import options

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The options of one pool, checked; times are in seconds, and None has become infinity."""

    name: str
    timeout: float
    max_waiting: int
    role: str | None
    max_lifetime: float
    max_idle: float
    reconnect_timeout: float
    validate: str
    validate_after: float  # 0 if everything is asked or checked at each hand-out
    looks: bool  # whether a look at the socket is all that a hand-out takes
    ping_after: float
    ping_timeout: float
    max_connecting: int
    connect_timeout: float
    down_wait: float
    configure: Callable[[Any], object] | None
    check: Callable[[Any], object] | None
    server: Mapping[str, float]  # what the sessions start with

    @classmethod
    def of(cls, values: Mapping[str, Any], name: str) -> Settings:
        """Return the settings that these options amount to, as `options.checked` returns them."""
        # A check, or a ping each time, is due at every hand-out: nothing is good until later.
        always = values["check"] is not None or values["validate"] == "ping"
        return cls(
            name=name,
            timeout=values["timeout"],
            max_waiting=values["max_waiting"],
            role=values["role"],
            max_lifetime=_or_for_ever(values["max_lifetime"]),
            max_idle=_or_for_ever(values["max_idle"]),
            reconnect_timeout=values["reconnect_timeout"],
            validate=values["validate"],
            validate_after=0.0 if always else values["validate_after"],
            looks=values["validate"] == "poll" and not always and values["background"],
            ping_after=values["ping_after"],
            ping_timeout=values["ping_timeout"],
            max_connecting=values["max_connecting"],
            connect_timeout=values["connect_timeout"],
            down_wait=values["down_wait"],
            configure=values["configure"],
            check=values["check"],
            server=options.server_settings(values),
        )


def _or_for_ever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
