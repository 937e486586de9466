"""Sends requests to a remote scorer, within a deadline, a limit on the answer's bytes and a number of tries.

A request that got no answer, a broken one, status 408, 429 or 5xx is sent again, after the pause that the scorer asks
for in Retry-After. A redirect is not followed. A scorer on this machine is reached without a proxy.
"""

import asyncio
import email.utils
import errno
import os
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from rdt.rewards.contract import RewardError
from rdt.rewards.endpoint import TOKEN, is_loopback, token
from rdt.rewards.wire import parsed_object, replied, reply_limit
from rdt.text import NAME, folded

PAUSE = 0.5  # seconds before the second try, twice as long before each further one
LONGEST_PAUSE = 300.0  # seconds that a scorer may ask for
RETRIED = (408, 429)  # the statuses below 500 that are tried again
Request = tuple[Callable[[], bytes], int]  # what writes a request's body, and the number of its images


class RemoteFailed(RewardError):
    """The remote scorer returned no scores; the message has its URL and the reason."""


class Answer(Exception):
    """Holds an answer other than scores: its status, what it says, and the seconds to wait before the next try."""

    def __init__(self, status: int, message: str, pause: float) -> None:
        super().__init__(f"{status} {message}")
        self.status, self.pause = status, pause


@dataclass(frozen=True)
class Endpoint:
    """Sends the requests of one scorer."""

    url: str
    parallel: int  # requests at a time
    timeout: float  # seconds for a whole answer
    retries: int

    def scores(self, requests: list[Request]) -> list[float]:
        """Return the scores of all requests, in order; RemoteFailed if one has none after every try."""
        return [score for answer in _run(self._all(requests)) for score in answer]

    async def _all(self, requests: list[Request]) -> list[list[float]]:
        allowed, proxy = asyncio.Semaphore(self.parallel), proxy_of(self.url)
        verify = _authorities() if "https" in (urlsplit(self.url).scheme, urlsplit(proxy or "").scheme) else False
        async with httpx.AsyncClient(
            verify=verify, proxy=proxy, trust_env=False, follow_redirects=False, timeout=None, headers=_headers()
        ) as client:

            async def one(write: Callable[[], bytes], count: int) -> list[float]:
                async with allowed:
                    return await self._scores(client, await asyncio.to_thread(write), count)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(*request)) for request in requests]
        return [task.result() for task in tasks]

    async def _scores(self, client: httpx.AsyncClient, body: bytes, count: int) -> list[float]:
        """Return the scores of one request, sent again after a failure that may pass."""
        reason = ""
        for attempt in range(1 + self.retries):
            pause = PAUSE * 2**attempt
            try:
                async with asyncio.timeout(self.timeout):
                    return replied(await self._post(client, body, reply_limit(count)), count)
            except Answer as answer:
                reason, pause = str(answer), max(pause, answer.pause)
                self._check_passing(answer)
            except TimeoutError:
                reason = f"no answer within reward.timeout={self.timeout:g} s"
            except ValueError as error:
                raise RemoteFailed(f"reward.url={self.url}{self._way()}: {folded(error, NAME)}") from None
            except (OSError, httpx.HTTPError) as error:
                reason = folded(_cause(error), NAME)
            if attempt < self.retries:
                await asyncio.sleep(pause)
        raise RemoteFailed(f"reward.url={self.url}{self._way()} gave no scores in {1 + self.retries} tries: {reason}")

    def _check_passing(self, answer: Answer) -> None:
        """Raise RemoteFailed unless the answer may be another one at the next try."""
        place = f"reward.url={self.url}{self._way()}"
        if 300 <= answer.status < 400:
            raise RemoteFailed(f"{place} answered {answer}; redirects are not followed")
        if answer.status < 500 and answer.status not in RETRIED:
            advice = f"; set {TOKEN} in the environment to the scorer's token" if answer.status == 401 else ""
            raise RemoteFailed(f"{place} refused the request: {answer}{advice}")
        if answer.pause > LONGEST_PAUSE:
            raise RemoteFailed(f"{place} asks to wait {answer.pause:.0f} s, more than {LONGEST_PAUSE:.0f} s: {answer}")

    async def _post(self, client: httpx.AsyncClient, body: bytes, limit: int) -> bytes:
        """Return the body of an answer with scores; Answer if it is another one, ValueError if it is too long."""
        async with client.stream("POST", self.url, content=body) as answer:
            if not answer.is_success:
                raise Answer(answer.status_code, await self._message(answer), _retry_after(answer.headers))
            received = bytearray()
            async for chunk in answer.aiter_raw():
                received += chunk
                if len(received) > limit:
                    raise ValueError(f"the answer has more than the {limit} bytes that its scores may have")
            return bytes(received)

    async def _message(self, answer: httpx.Response) -> str:
        """Return what an answer without scores says: the new address, the scorer's own error, or HTTP's phrase."""
        if "location" in answer.headers:
            return f"with the new address {folded(urljoin(self.url, answer.headers['location']), NAME)}"
        received = bytearray()
        try:
            async for chunk in answer.aiter_raw():
                received += chunk
                if len(received) > reply_limit(0):
                    break
            return folded(parsed_object(bytes(received))["error"], NAME)
        except (ValueError, KeyError, OSError, httpx.HTTPError):
            return folded(answer.reason_phrase, NAME)

    def _way(self) -> str:
        """Return the proxy in the way, in words; without the password that its address may have."""
        parts = urlsplit(proxy_of(self.url) or "")
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return f" (by the proxy {address} of the environment)" if parts.netloc else ""


def proxy_of(url: str) -> str | None:
    """Return the address of the environment's proxy for a URL, or None; this machine is reached without one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or host in ("0.0.0.0", "::") or proxy_bypass(parts.netloc) or proxy_bypass(host):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{found}" if found and "://" not in found else found or None


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine, in another thread if this one runs a loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _unwrapped(work)
    results: list[Any] = []

    def keep() -> None:
        try:
            results.append(_unwrapped(work))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def _unwrapped(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as errors:  # the first failure cancels the other requests
        raise errors.exceptions[0] from None


def _headers() -> dict[str, str]:
    """Return the headers of a request. Compressed answers are not taken: their size would not be known."""
    secret = token()
    bearer = {"Authorization": f"Bearer {secret}"} if secret else {}
    return {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"} | bearer


@cache
def _authorities() -> ssl.SSLContext:
    return ssl.create_default_context()


def _retry_after(headers: httpx.Headers) -> float:
    """Return the seconds that an answer asks to wait, 0 if it does not."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _cause(error: BaseException) -> str:
    """Return the system's reason for a broken connection, below what httpx makes of it."""
    reason, inner = str(error) or type(error).__name__, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, OSError) and inner.strerror:
            number = inner.errno or 0
            reason = os.strerror(number) if number in errno.errorcode else inner.strerror
        inner = inner.__cause__ or inner.__context__
    return reason
