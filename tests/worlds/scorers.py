"""Serves rewards for tests, and plays scorers that answer as they like."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rdt.rewards.base import Reward
from rdt.rewards.server import Server
from rdt.rewards.wire import Limits

LIMITS = {"bytes": 2_000_000, "pixels": 1 << 16, "request_pixels": 1 << 18, "queue": 64, "seconds": 30.0}


@contextmanager
def serving(reward: Reward, token: str | None = None, host: str = "127.0.0.1", **limits: float) -> Iterator[str]:
    """Serve a reward and yield its URL."""
    server = Server(reward, "cpu", (host, 0), token, Limits(**LIMITS | limits))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.url.replace("0.0.0.0", "127.0.0.1")
    finally:
        server.stop()
        thread.join()


@contextmanager
def playing(act: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Read each request whole, hand its connection and body to `act`, then close it; yield the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.settimeout(0.05)
        ended, threads = threading.Event(), []
        accepting = threading.Thread(target=_accept, args=(listening, act, ended, threads))
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            for thread in (accepting, *threads):
                thread.join()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return a whole HTTP answer."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


def _accept(listening: socket.socket, act: Callable, ended: threading.Event, threads: list[threading.Thread]) -> None:
    while not ended.is_set():
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        threads.append(threading.Thread(target=_serve, args=(connection, act)))
        threads[-1].start()


def _serve(connection: socket.socket, act: Callable[[socket.socket, bytes], None]) -> None:
    with connection:
        connection.settimeout(60)
        try:
            act(connection, _body(connection))
        except OSError:
            return  # the client hung up


def _body(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        lengths = [0]
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            lengths += [int(value)] if name.lower() == b"content-length" else []
        return stream.read(lengths[-1])
