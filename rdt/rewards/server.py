"""Serves any reward of rdt over HTTP for `reward=remote`, with the standard library alone; an example of a scorer.

`rdt.rewards.remote` describes the format.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import Tensor

from rdt.rewards.base import Reward
from rdt.rewards.remote import reply, requested

LARGEST = 1 << 30  # bytes of a request


class Server(ThreadingHTTPServer):
    """Listens when it is built, answers in `serve_forever`, and scores one request at a time."""

    daemon_threads = True

    def __init__(self, reward: Reward, device: str, host: str, port: int) -> None:
        super().__init__((host, port), Handler)
        self.reward, self.device, self.busy = reward.to(device), device, threading.Lock()

    @torch.no_grad()
    def scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, (B,), of images (B, 3, H, W) in [0, 1]."""
        with self.busy:
            return self.reward(images.to(self.device), prompts)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server

    def do_POST(self) -> None:
        """Send the scores, status 400 if the request is wrong, or 500 if the reward fails."""
        try:
            length = int(self.headers.get("Content-Length", 0))
            if not 0 < length <= LARGEST:
                raise ValueError(f"Content-Length={length}: expected 1 to {LARGEST} bytes")
            self._answer(200, reply(self.server.scores(*requested(self.rfile.read(length)))))
        except ValueError as error:
            self._answer(400, json.dumps({"error": str(error)}).encode())
        except Exception as error:
            self._answer(500, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing: the base class would log every request to stderr."""
