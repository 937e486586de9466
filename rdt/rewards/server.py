"""Serves any reward of rdt over HTTP for `reward=remote`; `rdt.rewards.wire` describes the format.

One request is scored at a time, and its images a few at a time. What a stranger can make large is bounded before it is
read: connections without a request, bodies, images, requests that wait, and the time of each. Web pages that the user
of this machine has open cannot send requests: they want a JSON content type, and a loopback Host if the server is on
loopback. Elsewhere every request wants the token of the environment.
"""

import asyncio
import hmac
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rdt.rewards.base import Reward
from rdt.rewards.connections import Connection
from rdt.rewards.contract import RewardError
from rdt.rewards.endpoint import TOKEN, is_loopback
from rdt.rewards.intake import AGAIN, Intake
from rdt.rewards.wire import Limits, TooLarge, reply, requested
from rdt.text import NAME, folded

LINGER = 2.0  # seconds in which the rest of a refused request is read, so that its client reads the refusal


class Guard:
    """Refuses requests by their heads."""

    def __init__(self, host: str, token: str | None, largest: int) -> None:
        self.loopback, self.token, self.largest = is_loopback(host), token, largest

    def check(self, request: Request) -> None:
        """Raise HTTPException with status 421, 401, 415 or 413 unless the head is that of a wanted request."""
        headers = request.headers
        if self.loopback and not is_loopback(_name(headers.get("host", ""))):
            raise HTTPException(421, f"Host={headers.get('host')}: this server answers to names of this machine alone")
        if self.token is not None and not self._authorised(headers.get("authorization", "")):
            raise HTTPException(
                401, f"the request has not the token of the server's {TOKEN}; send Authorization: Bearer"
            )
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, f"Content-Type={kind or 'nothing'}, expected application/json")
        length = headers.get("content-length", "0")
        if len(length) > 18 or int(length) > self.largest:
            raise HTTPException(
                413, f"Content-Length={length}, expected at most {self.largest} bytes; send fewer images at a time"
            )

    def _authorised(self, header: str) -> bool:
        scheme, _, sent = header.partition(" ")
        same = hmac.compare_digest(sent.strip().encode(), (self.token or "").encode())
        return scheme.lower() == "bearer" and same


def _name(host: str) -> str:
    """Return the name in a Host header, "" if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Desk:
    """Scores the requests one after another, in the order in which they came."""

    def __init__(self, reward: Reward, device: str, limits: Limits) -> None:
        self.reward, self.device, self.limits = reward.to(device), device, limits
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="rdt-score")
        self.waiting = 0

    async def answer(self, request: Request, body: bytearray) -> Response:
        """Return the scores; HTTPException 503 if too many requests wait, or the scores take too long."""
        if self.waiting >= self.limits.queue:
            raise HTTPException(503, f"{self.waiting} requests wait already", AGAIN)
        scored = asyncio.wrap_future(self.worker.submit(self.scores, body))
        gone = asyncio.ensure_future(request.receive())  # nothing but the client's end comes after the body
        self.waiting += 1
        try:
            await asyncio.wait({scored, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if scored.done():
                return Response(scored.result(), media_type="application/json")
            raise HTTPException(503, f"no scores within {self.limits.seconds:g} s", AGAIN)
        finally:
            self.waiting -= 1
            scored.cancel()
            gone.cancel()

    @torch.no_grad()
    def scores(self, body: bytearray) -> bytes:
        """Return the reply to a request; HTTPException with status 400, 413, 422 or 500 if it has none."""
        try:
            query = requested(body, self.limits)
            batches = query.batches(self.limits.pixels)
            parts = [self.scored(images.to(self.device), prompts) for images, prompts in batches]
        except TooLarge as error:
            raise HTTPException(413, str(error)) from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        return reply(torch.cat(parts))

    def scored(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Return the scores, (B,), on the host; HTTPException 422 if the reward refuses the images, 500 if it fails."""
        try:
            return self.reward(images, prompts).float().cpu()
        except Exception as error:
            cause = error.__cause__ if isinstance(error, RewardError) and error.__cause__ else error
            refused = isinstance(cause, ValueError) and not isinstance(cause, RewardError)
            name = "" if refused else f"{type(cause).__name__}: "
            raise HTTPException(422 if refused else 500, f"{name}{cause}") from None


class Refusal(JSONResponse):
    """Says in one line what is wrong, and reads what the client still sends: otherwise it would not read the line."""

    def __init__(self, error: HTTPException, whole: bool) -> None:
        super().__init__({"error": folded(error.detail, NAME)}, error.status_code, error.headers)
        self.whole = whole  # whether the request was read to its end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER):
                while not self.whole:
                    self.whole = not (await receive()).get("more_body", False)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def application(guard: Guard, intake: Intake, desk: Desk) -> Starlette:
    """Return the ASGI application: it answers POST at any path."""

    async def answer(request: Request) -> Response:
        guard.check(request)
        body = await intake.body(request)
        size = len(body)
        intake.waiting += size
        try:
            return await desk.answer(request, body)
        finally:
            intake.waiting -= size

    async def refuse(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            error = HTTPException(500, f"{type(error).__name__}: {error}")
        return Refusal(error, whole=getattr(request.state, "whole", False))

    route = Route("/{path:path}", answer, methods=["POST"])
    return Starlette(routes=[route], exception_handlers={HTTPException: refuse, ValueError: refuse})


class Server:
    """Listens when it is built, and answers in `run` until it is interrupted or stopped."""

    def __init__(
        self, reward: Reward, device: str, address: tuple[str, int], token: str | None, limits: Limits
    ) -> None:
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host.strip("[]"), port), family=family, backlog=1024)
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self.desk = Desk(reward, device, limits)
        app = application(Guard(host, token, limits.bytes), Intake(limits.bytes), self.desk)
        self.uvicorn = uvicorn.Server(_config(app))

    @property
    def url(self) -> str:
        """Return the address as reward.url takes it."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Answer requests until interrupted."""
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it would report clients that hang up
        try:
            self.uvicorn.run(sockets=[self.socket])
        finally:
            self.desk.worker.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """End `run`, from another thread."""
        self.uvicorn.should_exit = True


def _config(app: Starlette) -> uvicorn.Config:
    """Return how uvicorn listens: a connection for each request, no other protocols, and nothing printed."""
    connection: Any = partial(Connection, pending={})
    return uvicorn.Config(
        app, http=connection, loop="asyncio", ws="none", lifespan="off", headers=[("Connection", "close")],
        log_config=None, log_level="critical", access_log=False, server_header=False, proxy_headers=False,
        backlog=1024, timeout_graceful_shutdown=1,
    )  # fmt: skip
