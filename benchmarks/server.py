"""Measure what hostile clients cost `rdt serve`: memory above rest, and the time of a good client beside them.

`python benchmarks/server.py` starts `python -m rdt.serve reward=hps port=0`, opens 300 connections that send half of a
head or of a body, posts requests that grow when they are read (pictures, numbers, text), and prints two figures with
their bounds: the peak of the server's memory above what it took after a first good request, and the slowest answer to
a good client meanwhile. The exit status is 1 if a bound is exceeded.
"""

import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import torch

from rdt.rewards.wire import request

ROOT = Path(__file__).resolve().parents[1]
JSON = {"Content-Type": "application/json"}
HALF_OPEN = 300
MEGABYTES, SECONDS = 500, 1.0  # the bounds
HALVES = (
    b"",
    b"POST / HTTP/1.1\r\nHost: localhost\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n"
    + b" " * 500_000,
)


@contextmanager
def serving() -> Iterator[tuple[psutil.Process, str]]:
    """Yield the server's process and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rdt.serve", "reward=hps", "port=0", "device=cpu"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
        if found is None:
            raise OSError("the server did not start")
        yield psutil.Process(process.pid), found[0]
    finally:
        process.terminate()
        process.wait()


def post(url: str, body: bytes) -> tuple[int, float]:
    """Return the status and the seconds of an answer; status 0 if the connection broke."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    began = time.monotonic()
    try:
        connection.request("POST", "/", body, JSON)
        return connection.getresponse().status, time.monotonic() - began
    except OSError:
        return 0, time.monotonic() - began
    finally:
        connection.close()


def picture(side: int) -> str:
    """Return a black PNG of one bit per pixel, in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((side + 7) // 8 + 1) * side, 9))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")).decode()


def pictures(side: int, count: int) -> bytes:
    """Return a request of such pictures."""
    return json.dumps({"prompts": ["a"] * count, "images": [picture(side)] * count, "format": "png"}).encode()


def bombs() -> dict[str, bytes]:
    """Return, by name, requests that take many times their size when they are read."""
    raw = {"prompts": ["a"], "images": [""], "format": "float32", "shape": [3, 13000, 13000]}
    return {
        "a PNG of 13000x13000": pictures(13000, 1),
        "ten PNGs of 13000x13000": pictures(13000, 10),
        "16 PNGs of 1024x1024, the largest that is scored": pictures(1024, 16),
        "4 PNGs of 2048x2048, the largest that is scored": pictures(2048, 4),
        "float32 values of 13000x13000": json.dumps(raw).encode(),
        "20 million empty objects": b"[" + b"{}," * 20_000_000 + b"1]",
        "60 MB of text with an emoji": b'{"prompts": ["\\ud83d\\ude00' + b"x" * 60_000_000 + b'"]}',
        "30 MB of text with a raw emoji": '{"prompts": ["😀'.encode() + b"x" * 30_000_000 + b'"]}',
        "200,000 brackets": b"[" * 200_000,
        "a GB of blanks": b" " * 1_000_000_000,
    }


class Peak(threading.Thread):
    """Records the largest memory that a process takes, in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.bytes, self.ended = process, 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.005):
            self.bytes = max(self.bytes, self.process.memory_info().rss)


def half_open(url: str) -> list[socket.socket]:
    """Return connections that sent half of a request each."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    opened = []
    for k in range(HALF_OPEN):
        opened.append(socket.create_connection((host, int(port)), timeout=10))
        opened[-1].setblocking(False)  # what the server does not read yet is left out
        opened[-1].send(HALVES[k % len(HALVES)] or b"P")
    return opened


def main() -> int:
    """Print the figures, and return the exit status."""
    good = request(torch.rand(4, 3, 32, 32), ["a red circle"] * 4, "png")
    with serving() as (process, url):
        post(url, good)
        rest, peak = process.memory_info().rss, Peak(process)
        peak.start()
        idle = half_open(url)
        slowest = max(post(url, good)[1] for _ in range(20))
        for name, body in bombs().items():
            status, seconds = post(url, body)
            answered, beside = post(url, good)
            print(f"{name}: {len(body):,} bytes, status {status} after {seconds:.2f} s; next good client {answered}")
            slowest = max(slowest, beside if answered == 200 else 1e9)
        peak.ended.set()
        for connection in idle:
            connection.close()
    above = (peak.bytes - rest) / 1e6
    print(f"memory above {rest / 1e6:.0f} MB at rest: {above:.0f} MB (bound {MEGABYTES})")
    print(f"slowest good client beside {HALF_OPEN} half-open ones: {slowest:.3f} s (bound {SECONDS:g})")
    return int(above > MEGABYTES or slowest > SECONDS)


if __name__ == "__main__":
    sys.exit(main())
