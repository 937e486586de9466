"""Reads the bodies of requests within a time each and an amount of memory for all of them together."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

BODY_SECONDS = 60.0  # in which a body must have come, once its head was read
AT_ONCE = 2  # largest requests that are in memory together, whole or not
AGAIN = {"Retry-After": "1"}  # seconds


class Intake:
    """Holds the bodies that are being read, oldest first, and the bytes of those that wait for their scores."""

    def __init__(self, largest: int) -> None:
        self.largest = largest  # bytes of a request
        self.reading: dict[asyncio.Timeout, bytearray] = {}
        self.waiting = 0  # bytes

    async def body(self, request: Request) -> bytearray:
        """Return the body; HTTPException 413 if it is too long, 408 if it is too slow, 503 if memory is short."""
        held = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS) as clock:
                self.reading[clock] = held
                async for chunk in request.stream():
                    held += chunk
                    self._check(len(held))
        except TimeoutError:
            if clock in self.reading:
                raise HTTPException(408, f"the body did not come within {BODY_SECONDS:g} s") from None
            raise HTTPException(503, "there is no memory for further requests now", AGAIN) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client hung up") from None
        finally:
            self.reading.pop(clock, None)
        request.state.whole = True
        return held

    def _check(self, length: int) -> None:
        if length > self.largest:
            raise HTTPException(413, f"a request of more than {self.largest} bytes; send fewer images at a time")
        while self.reading and self.waiting + sum(map(len, self.reading.values())) > AT_ONCE * self.largest:
            slowest = next(iter(self.reading))  # it had the most time, and a client of good will needs little
            self.reading.pop(slowest).clear()
            slowest.reschedule(asyncio.get_running_loop().time())
