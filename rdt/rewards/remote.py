"""A scorer behind HTTP, for judges too large to sit beside the policy; `rdt.rewards.remote` has the format.

What a scorer and its caller say to each other, in JSON over HTTP:

    POST {"prompts": [B texts], "images": [B texts in base64], "format": "png"}
    POST {"prompts": [B texts], "images": [B texts in base64], "format": "float32", "shape": [3, H, W]}
    200  {"scores": [B numbers, in the order of the images; null is not a number]}
    4xx  {"error": "what is wrong with the request"}, 5xx {"error": "what is wrong here"}, which is worth another try

A png is the file of an image, 8 bits a channel. A float32 image is its values in [0, 1], little-endian, row by row,
channel by channel: 3 H W of them. The images of a request have one size.

The other end of `reward=remote`, and an example of one: any reward of ours behind HTTP, standard library only.
"""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rdt.rewards.base import Reward, blank

FORMATS = ("png", "float32")


def request(images: Tensor, prompts: list[str], form: str) -> bytes:
    """Images (B, 3, H, W) in [0, 1] and their prompts as the body of a request."""
    write = {"png": _png, "float32": _raw}[form]
    coded = [base64.b64encode(write(image)).decode("ascii") for image in images.detach().float().cpu()]
    shape = {"shape": list(images.shape[1:])} if form == "float32" else {}
    return json.dumps({"prompts": list(prompts), "images": coded, "format": form, **shape}).encode()


def requested(body: bytes) -> tuple[Tensor, list[str]]:
    """The images (B, 3, H, W) and prompts of a request; ValueError where it is none."""
    said = _object(body)
    form, shape = said.get("format"), said.get("shape")
    if form not in FORMATS:
        raise ValueError(f"format={form} is not one of {', '.join(FORMATS)}")
    prompts, files = _texts(said, "prompts"), [base64.b64decode(text) for text in _texts(said, "images")]
    images = [_values(file, shape) if form == "float32" else _pixels(file) for file in files]
    if not images or len(images) != len(prompts) or len({image.shape for image in images}) > 1:
        seen = sorted({tuple(image.shape) for image in images})
        raise ValueError(
            f"{len(prompts)} prompts and {len(images)} images of shapes {seen}: expected as many, one shape"
        )
    return torch.stack(images), prompts


def reply(scores: Tensor) -> bytes:
    """Scores (B,) as the body of a reply."""
    return json.dumps({"scores": [score if score - score == 0 else None for score in scores.tolist()]}).encode()


def replied(body: bytes, count: int) -> list[float]:
    """The scores of a reply; ValueError unless they are so many numbers."""
    scores = _object(body).get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        found = f"{len(scores)} scores" if isinstance(scores, list) else f"{body[:80]!r}"
        raise ValueError(f'it answered {found} for {count} images, expected {{"scores": [{count} numbers]}}')
    for score in scores:
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise ValueError(f"it answered the score {score!r}, expected a number")
    return [float("nan") if score is None else float(score) for score in scores]


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        raise ValueError(f"{body[:80]!r} is not JSON") from None
    if not isinstance(said, dict):
        raise ValueError(f"{body[:80]!r} is not a JSON object")
    return said


def _texts(said: dict[str, Any], key: str) -> list[str]:
    texts = said.get(key)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is to be a list of texts")
    return texts


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    pixels = (image.nan_to_num().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _pixels(file: bytes) -> Tensor:
    try:
        picture = np.array(Image.open(io.BytesIO(file), formats=["PNG"]).convert("RGB"))
    except Exception as error:  # what garbage makes a decoder raise knows no bounds
        raise ValueError(f"an image is no readable PNG file: {error}") from None
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def _raw(image: Tensor) -> bytes:
    return image.contiguous().numpy().astype("<f4").tobytes()


def _values(file: bytes, shape: Any) -> Tensor:
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3 or not all(isinstance(n, int) for n in shape):
        raise ValueError(f"shape={shape} of float32 images, expected [3, H, W]")
    if min(shape) < 1 or len(file) != 4 * shape[0] * shape[1] * shape[2]:
        raise ValueError(
            f"an image has {len(file)} bytes, its shape={shape} makes {4 * shape[0] * shape[1] * shape[2]}"
        )
    return torch.from_numpy(np.frombuffer(file, "<f4").astype(np.float32)).view(shape)


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


LARGEST = 1 << 30  # bytes of a request


class Server(ThreadingHTTPServer):
    """Listens at once and answers with `serve_forever`; one request is scored at a time."""

    daemon_threads = True

    def __init__(self, reward: Reward, device: str, host: str, port: int) -> None:
        super().__init__((host, port), Handler)
        self.reward, self.device, self.busy = reward.to(device), device, threading.Lock()

    @torch.no_grad()
    def scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,)."""
        with self.busy:
            return self.reward(images.to(self.device), prompts)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        """Scores; 400 where the request is at fault, 500 where the reward is."""
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
        """Say nothing."""
