"""A scorer behind HTTP, for judges too large to sit beside the policy; `rdt.rewards.wire` has the format."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from rdt.rewards.base import Reward, blank
from rdt.rewards.wire import FORMATS, replied, request

PAUSE = 0.5  # seconds before the second try, twice as long before each further one
TOO_MANY = 429  # the one refusal of HTTP that asks to be tried again


class RemoteFailed(ConnectionError):
    """A scorer that gave no scores; the message names it and why."""


class RemoteReward(Reward):
    """Scores in the images' order, however many requests they go in; it has no gradient."""

    differentiable = False

    def __init__(self, *, url: str, format: str, batch_size: int, parallel: int, timeout: float, retries: int) -> None:
        super().__init__()
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ValueError(f"reward.url={url} is not of the form http://host:port/path")
        if format not in FORMATS:
            raise ValueError(f"reward.format={format} is not one of {', '.join(FORMATS)}")
        if min(batch_size, parallel) < 1 or not timeout > 0 or retries < 0:
            numbers = f"batch_size={batch_size} parallel={parallel} timeout={timeout} retries={retries}"
            raise ValueError(f"reward.{numbers}: the first three must be greater than 0, retries at least 0")
        self.url, self.format, self.batch_size = url, format, batch_size
        self.parallel, self.timeout, self.retries = parallel, timeout, retries

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,); RemoteFailed after so many tries."""
        texts = [prompts[first : first + self.batch_size] for first in range(0, len(prompts), self.batch_size)]
        with ThreadPoolExecutor(self.parallel) as pool:  # map keeps the order
            answers = list(pool.map(self._scores, images.split(self.batch_size), texts))
        scores = torch.tensor([score for answer in answers for score in answer], dtype=torch.float32)
        return blank(scores.to(images.device), images)

    def _scores(self, images: Tensor, prompts: list[str]) -> list[float]:
        body, reason = request(images, prompts, self.format), ""
        for attempt in range(1 + self.retries):
            time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                return replied(self._post(body), len(images))
            except HTTPError as error:
                reason = _said(error)
                if error.code < 500 and error.code != TOO_MANY:
                    raise RemoteFailed(f"reward.url={self.url} refused the request: {reason}") from None
            except ValueError as error:
                raise RemoteFailed(f"reward.url={self.url}: {error}") from None
            except (OSError, HTTPException) as error:
                reason = self._why(error)
        raise RemoteFailed(f"reward.url={self.url} gave no scores in {1 + self.retries} tries: {reason}")

    def _post(self, body: bytes) -> bytes:
        asked = Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        with urlopen(asked, timeout=self.timeout) as answer:
            return answer.read()

    def _why(self, error: Exception) -> str:
        cause = error.reason if isinstance(error, URLError) else error
        late = f"no answer within reward.timeout={self.timeout:g} s"
        return late if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__


def _said(error: HTTPError) -> str:
    """The server's own words, where it has some."""
    with error:
        body = error.read()
    try:
        return f"{error.code} {json.loads(body)['error']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
