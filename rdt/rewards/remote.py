"""A scorer behind HTTP, for judges that do not fit beside the policy, and the format of its requests and replies.

Both are JSON:

    POST {"prompts": [B texts], "images": [B texts in base64], "format": "png"}
    POST {"prompts": [B texts], "images": [B texts in base64], "format": "float32", "shape": [3, H, W]}
    200  {"scores": [B numbers, in the order of the images; null stands for NaN]}
    4xx  {"error": "what is wrong with the request"}
    5xx  {"error": "what is wrong on the server"}, after which the client tries again

A png image is a PNG file, 8 bits per channel. A float32 image is its 3 H W values in [0, 1], little-endian, channel by
channel and row by row. All images of a request have one size.
"""

import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
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
PAUSE = 0.5  # seconds before the second try, twice as long before each further one
TOO_MANY_REQUESTS = 429  # the only 4xx status that is tried again


class RemoteFailed(ConnectionError):
    """The remote scorer returned no scores; the message has its URL and the reason."""


class RemoteReward(Reward):
    """Scores images on a server, in several requests at a time; it has no gradient."""

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
        """Return the scores, (B,), in the order of the images; RemoteFailed if every try failed."""
        texts = [prompts[first : first + self.batch_size] for first in range(0, len(prompts), self.batch_size)]
        with ThreadPoolExecutor(self.parallel) as pool:  # map keeps the order
            answers = list(pool.map(self._scores, images.split(self.batch_size), texts))
        scores = torch.tensor([score for answer in answers for score in answer], dtype=torch.float32)
        return blank(scores.to(images.device), images)

    def _scores(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Return the scores of one request, sent again after a failure that may pass."""
        body, reason = request(images, prompts, self.format), ""
        for attempt in range(1 + self.retries):
            time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                return replied(self._post(body), len(images))
            except HTTPError as error:
                reason = _server_message(error)
                if error.code < 500 and error.code != TOO_MANY_REQUESTS:
                    raise RemoteFailed(f"reward.url={self.url} refused the request: {reason}") from None
            except ValueError as error:
                raise RemoteFailed(f"reward.url={self.url}: {error}") from None
            except (OSError, HTTPException) as error:
                reason = self._failure(error)
        raise RemoteFailed(f"reward.url={self.url} gave no scores in {1 + self.retries} tries: {reason}")

    def _post(self, body: bytes) -> bytes:
        message = Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        with urlopen(message, timeout=self.timeout) as answer:
            return answer.read()

    def _failure(self, error: Exception) -> str:
        """Return why no answer came."""
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within reward.timeout={self.timeout:g} s"
        return str(cause) or type(cause).__name__


def _server_message(error: HTTPError) -> str:
    """Return the status and the server's own error message, or HTTP's if it sent none."""
    with error:
        body = error.read()
    try:
        return f"{error.code} {json.loads(body)['error']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


def request(images: Tensor, prompts: list[str], form: str) -> bytes:
    """Write images (B, 3, H, W) in [0, 1] and their prompts as the body of a request."""
    write = {"png": _png, "float32": _raw}[form]
    coded = [base64.b64encode(write(image)).decode("ascii") for image in images.detach().float().cpu()]
    shape = {"shape": list(images.shape[1:])} if form == "float32" else {}
    return json.dumps({"prompts": list(prompts), "images": coded, "format": form, **shape}).encode()


def requested(body: bytes) -> tuple[Tensor, list[str]]:
    """Read the images (B, 3, H, W) and prompts of a request; ValueError if it does not follow the format."""
    content = _object(body)
    form, shape = content.get("format"), content.get("shape")
    if form not in FORMATS:
        raise ValueError(f"format={form} is not one of {', '.join(FORMATS)}")
    prompts, files = _texts(content, "prompts"), [base64.b64decode(text) for text in _texts(content, "images")]
    images = [_values(file, shape) if form == "float32" else _pixels(file) for file in files]
    if not images or len(images) != len(prompts) or len({image.shape for image in images}) > 1:
        shapes = sorted({tuple(image.shape) for image in images})
        raise ValueError(
            f"{len(prompts)} prompts and {len(images)} images of shapes {shapes}: expected one prompt per image and"
            " one shape"
        )
    return torch.stack(images), prompts


def reply(scores: Tensor) -> bytes:
    """Write scores (B,) as the body of a reply."""
    return json.dumps({"scores": [score if score - score == 0 else None for score in scores.tolist()]}).encode()


def replied(body: bytes, count: int) -> list[float]:
    """Read the scores of a reply; ValueError unless they are `count` numbers."""
    scores = _object(body).get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        found = f"{len(scores)} scores" if isinstance(scores, list) else f"{body[:80]!r}"
        raise ValueError(f'the answer is {found} for {count} images, expected {{"scores": [{count} numbers]}}')
    for score in scores:
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise ValueError(f"the answer has the score {score!r}, expected a number")
    return [float("nan") if score is None else float(score) for score in scores]


def _object(body: bytes) -> dict[str, Any]:
    """Read a JSON object; ValueError if the body is anything else."""
    try:
        content = json.loads(body)
    except ValueError:
        raise ValueError(f"{body[:80]!r} is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{body[:80]!r} is not a JSON object")
    return content


def _texts(content: dict[str, Any], key: str) -> list[str]:
    texts = content.get(key)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is not a list of texts")
    return texts


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    pixels = (image.nan_to_num().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _pixels(file: bytes) -> Tensor:
    """Read a PNG file as (3, H, W) in [0, 1]; ValueError if it cannot be read."""
    try:
        picture = np.array(Image.open(io.BytesIO(file), formats=["PNG"]).convert("RGB"))
    except Exception as error:  # damaged data makes a decoder raise almost anything
        raise ValueError(f"an image is not a readable PNG file: {error}") from None
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def _raw(image: Tensor) -> bytes:
    return image.contiguous().numpy().astype("<f4").tobytes()


def _values(file: bytes, shape: Any) -> Tensor:
    """Read float32 values as an image of this shape; ValueError if shape or length is wrong."""
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3 or not all(isinstance(n, int) for n in shape):
        raise ValueError(f"shape={shape} of float32 images, expected [3, H, W]")
    size = 4 * shape[0] * shape[1] * shape[2]
    if min(shape) < 1 or len(file) != size:
        raise ValueError(f"an image has {len(file)} bytes, shape={shape} needs {size}")
    return torch.from_numpy(np.frombuffer(file, "<f4").astype(np.float32)).view(shape)
