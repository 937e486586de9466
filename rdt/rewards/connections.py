"""Connections of the server that never become a request: uvicorn itself waits for the rest of a head without an end."""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # in which the head of a request must have come
MOST = 1024  # connections, or half of the files that the process may open


def most_connections() -> int:
    """Return how many connections are kept open, so that the next one can always be accepted."""
    return min(MOST, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class Connection(H11Protocol):
    """Closes itself if its request's head does not come in time, or first if there are too many connections."""

    def __init__(self, *, pending: dict["Connection", asyncio.TimerHandle], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pending, self.most = pending, most_connections()  # `pending` holds those without a head, oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.pending[self] = self.loop.call_later(HEAD_SECONDS, self.abandon)
        if len(self.connections) > self.most:
            next(iter(self.pending)).abandon()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:  # the head was read
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def abandon(self) -> None:
        """Close the connection without an answer."""
        self._settle()
        self.transport.abort()

    def _settle(self) -> None:
        timer = self.pending.pop(self, None)
        if timer is not None:
            timer.cancel()
