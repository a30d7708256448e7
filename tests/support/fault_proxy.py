"""A TCP proxy that breaks connections on command.

with FaultProxy(("127.0.0.1", port)) as proxy:
    connection = psycopg2.connect(host=proxy.host, port=proxy.port)
    proxy.blackhole()            # nothing passes, the kernel still acknowledges; bytes are kept
    proxy.restore()              # what was kept arrives now
    proxy.reset()                # RST to both sides of every connection
    proxy.half_close("client")   # FIN towards the client only
    proxy.delay = 0.25           # seconds, for every chunk, each way
    proxy.accept_delay = 1.0     # seconds until a new connection is taken
    proxy.cut("s2c", 100)        # pass 100 bytes more, then reset
    proxy.refuse()               # connection refused; listen_again() undoes it
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["FaultProxy"]

_NO_LINGER = struct.pack("ii", 1, 0)
_Pair = tuple[socket.socket, socket.socket]


class FaultProxy:
    """Forwards connections to `upstream` until told otherwise.

    It listens on `host`, at a `port` of its own. Every verb may be called from any thread, and has
    taken effect when it returns.
    """

    def __init__(self, upstream: tuple[str, int], host: str = "127.0.0.1") -> None:
        self.upstream = upstream
        self.host, self.port = host, 0
        self.delay = self.accept_delay = 0.0
        self.accepted = 0
        self._cut: dict[str, int | None] = {"c2s": None, "s2c": None}
        self._pairs: dict[_Pair, list[asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> FaultProxy:
        ready = threading.Event()

        def run() -> None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
            self._gate = asyncio.Event()
            self._gate.set()
            self._listen()
            ready.set()
            self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=run, daemon=True, name="fault proxy")
        self._thread.start()
        if not ready.wait(30):
            raise RuntimeError("the proxy's thread has not started")
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._stop)
        self._thread.join(5)

    # Faults

    def blackhole(self) -> None:
        """Hold everything back, new connections included."""
        self._do(self._gate.clear)

    def restore(self) -> None:
        """Undo blackhole() and delay."""
        self.delay = 0.0
        self._do(self._gate.set)

    def reset(self) -> int:
        """Send RST on every open connection; return how many there were."""
        return int(self._do(self._kill))

    def half_close(self, side: str = "client") -> None:
        """Send FIN to one side ("client" or "server") and go on reading from it."""

        def act() -> None:
            for client, server in list(self._pairs):
                with contextlib.suppress(OSError):
                    (client if side == "client" else server).shutdown(socket.SHUT_WR)

        self._do(act)

    def cut(self, way: str, count: int) -> None:
        """Pass `count` bytes more that way ("c2s" or "s2c"), then reset every connection."""
        self._cut[way] = count

    def refuse(self) -> None:
        """Refuse new connections; the open ones go on."""

        def act() -> None:
            self._accepting.cancel()
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

        self._do(act)

    def listen_again(self) -> None:
        """Undo refuse(), on the same port."""
        self._do(self._listen)

    # The loop's thread

    def _do(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the loop's thread and return its result."""

        async def call() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(5)

    def _stop(self) -> None:
        self._kill()
        self._listener.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        self._loop.call_later(0.02, self._loop.stop)  # the cancellations come first

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return task

    def _listen(self) -> None:
        self._listener = socket.create_server((self.host, self.port), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = self._begin(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = await self._loop.sock_accept(listener)
                self.accepted += 1
                client.setblocking(False)
                self._begin(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        if self.accept_delay:
            await asyncio.sleep(self.accept_delay)
        await self._gate.wait()
        server = socket.socket()
        server.setblocking(False)
        try:
            await self._loop.sock_connect(server, self.upstream)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks = [
                self._begin(self._pump(client, server, "c2s")),
                self._begin(self._pump(server, client, "s2c")),
            ]
            self._pairs[client, server] = tasks
            await asyncio.wait(tasks)
        except OSError:
            pass
        finally:
            self._pairs.pop((client, server), None)
            client.close()
            server.close()

    async def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while True:
                data = await self._loop.sock_recv(source, 65536)
                await self._gate.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                left = self._cut[way]
                if left is not None:
                    data = data[:left]
                    self._cut[way] = left - len(data)
                await self._loop.sock_sendall(sink, data)
                if self._cut[way] == 0:
                    self._cut[way] = None
                    self._kill()
                    return

    def _kill(self) -> int:
        """Reset every connection on both sides; return how many."""
        pairs, self._pairs = self._pairs, {}
        for sides, tasks in pairs.items():
            for side in sides:
                with contextlib.suppress(OSError, ValueError):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    self._loop.remove_reader(side.fileno())
                    self._loop.remove_writer(side.fileno())
                    side.close()
            for task in tasks:
                task.cancel()
        return len(pairs)
