"""A port for a server: free, and kept from the test runs beside this one."""

from __future__ import annotations

import random
import socket

__all__ = ["claim_port"]

# Below the ports that kernels lend to clients: a client that keeps trying while the server is down
# could otherwise be lent the very port, connect to itself, and keep the server from coming back.
PORTS = range(15_000, 32_000)


def claim_port() -> tuple[int, socket.socket]:
    """Return a free port, and what keeps other test runs from taking it until it is closed.

    That is the UDP port of the same number, which no server here uses: the TCP port is free again
    whenever a server is not started yet, or is stopped.
    """
    while True:
        port = random.choice(PORTS)
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        return port, claim
