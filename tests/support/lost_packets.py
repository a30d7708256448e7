"""A link to a server on which every packet can be lost without a word. Linux, as root.

The link ends in a network namespace of its own, where a relay listens that passes everything on
to the server. Packets are lost by sending them to a hardware address that nobody has: that takes
no firewall, and nothing of the host's own network is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading

__all__ = ["LossyLink", "missing"]

_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:00:99"


def _ip() -> str | None:
    return shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def missing() -> str:
    """What such a link lacks on this machine; empty if it can be had."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a network namespace needs root"
    return "" if _ip() else "the program ip (iproute2) is not installed"


class LossyLink:
    """Use as a context manager; `host` and `port` are the relay's."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        pid = os.getpid()
        self._namespace, self._link = f"dbpool-lost-{pid}", f"dbl{pid % 10**9}"
        # Of the addresses set aside for such tests (RFC 2544).
        subnet = f"198.18.{pid % 250}"
        self._ours, self.host = f"{subnet}.1", f"{subnet}.2"
        self.port = 0
        self._sockets: list[socket.socket] = []
        self._accepting: threading.Thread | None = None

    def __enter__(self) -> LossyLink:
        try:
            self._run("netns", "add", self._namespace)
            self._run(
                "link", "add", self._link, "type", "veth", "peer", "eth0", "netns", self._namespace
            )
            self._run("addr", "add", f"{self._ours}/30", "dev", self._link)
            self._run("link", "set", self._link, "up")
            self._run("-n", self._namespace, "addr", "add", f"{self.host}/30", "dev", "eth0")
            self._run("-n", self._namespace, "link", "set", "eth0", "up")
            self._listen()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        while self._sockets:  # the listener first; then no more are added
            sock = self._sockets.pop(0)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            if self._accepting is not None:
                self._accepting.join()
                self._accepting = None
        for command in (f"link del {self._link}", f"netns del {self._namespace}"):
            subprocess.run([_ip() or "ip", *command.split()], check=False, capture_output=True)

    def lose(self) -> None:
        """Lose every packet from now on, both ways."""
        self._run("neigh", "replace", self.host, "lladdr", _NOBODY, "dev", self._link)
        self._run(
            "-n", self._namespace, "neigh", "replace", self._ours, "lladdr", _NOBODY, "dev", "eth0"
        )

    def heal(self) -> None:
        """Let them pass again."""
        for command in (
            ["neigh", "del", self.host, "dev", self._link],
            ["-n", self._namespace, "neigh", "del", self._ours, "dev", "eth0"],
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._run(*command)

    def _run(self, *arguments: str) -> None:
        subprocess.run([_ip() or "ip", *arguments], check=True, capture_output=True)

    def _listen(self) -> None:
        """Have a listener in the namespace: a socket stays in that of the thread that made it."""
        made: list[socket.socket] = []

        def inside() -> None:
            with open(f"/run/netns/{self._namespace}") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), _CLONE_NEWNET) == 0:
                    made.append(socket.create_server((self.host, 0), backlog=64))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if not made:
            raise OSError("the namespace could not be entered")
        self._sockets.append(made[0])
        self.port = made[0].getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, args=(made[0],), daemon=True)
        self._accepting.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                self._sockets.append(client)
                server = socket.create_connection(self._upstream, 5.0)
                server.settimeout(None)
                self._sockets.append(server)
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
