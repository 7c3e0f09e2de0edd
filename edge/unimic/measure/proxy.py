"""A TCP relay that counts: what a connection really carries, whatever is spoken on it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

from unimic.codec.errors import InvalidInput


class CountingProxy:
    """Relays connections to ``target``, ``host:port``, and counts their bytes.

    ::

        with CountingProxy("localhost:50051") as proxy, Client(proxy.address) as cloud:
            cloud.share("kitchen.jpg")
            print(proxy.up, proxy.down)

    Attributes:
        address: ``host:port`` to connect to.
        up: bytes that clients sent, all that TCP carried but for its own headers.
        down: bytes that they received.

    Raises:
        InvalidInput: ``target`` has no port.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        if not port.isdecimal():
            raise InvalidInput("--server", f"{target!r} has no port", "name host and port")
        self._target = host.strip("[]"), int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._counting = threading.Lock()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = self.down = 0

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for connection in (self._listener, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed: that is the end
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the client learns it as if it had called directly
                    client.close()
                    continue
                self._open += [client, server]
                for source, sink, way in ((client, server, "up"), (server, client, "down")):
                    threading.Thread(target=self._relay, args=(source, sink, way),
                                     daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self._counting:
                    setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
