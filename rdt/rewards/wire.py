"""The format of the requests and replies of a remote scorer, and the limits within which it is read.

Both sides are JSON:

    POST {"prompts": [B texts], "images": [B texts in base64], "format": "png"}
    POST {"prompts": [B texts], "images": [B texts in base64], "format": "float32", "shape": [3, H, W]}
    200  {"scores": [B numbers, in the order of the images; null stands for NaN]}
    4xx  {"error": "what is wrong with the request"}
    5xx  {"error": "what is wrong on the server"}, after which the client tries again; so it does after 408 and 429

A png image is a PNG file, 8 bits per channel. A float32 image is its 3 H W values in [0, 1], little-endian, channel by
channel and row by row. All images of a request have one size.

Whoever reads a request or a reply reads a stranger's text: its sizes are compared with the limits before anything is
parsed or decoded.
"""

import base64
import binascii
import io
import json
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FORMATS = ("png", "float32")
STRUCTURE = 1 << 16  # commas and opening brackets of a request: every value takes many times its bytes once it is read
RATIO = 16  # of an image's sides, at most: rewards scale one side to a few hundred pixels
PNG_HEAD = re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR(.{8})", re.DOTALL)


class TooLarge(ValueError):
    """Says that a request exceeds a limit of the server."""


@dataclass(frozen=True)
class Limits:
    """Hold what a server accepts."""

    bytes: int  # of a request
    pixels: int  # of an image, and of the images that are decoded and scored together
    request_pixels: int  # of all images of a request
    queue: int  # requests that wait for their scores
    seconds: float  # from a whole request to its answer


@dataclass(frozen=True)
class Query:
    """Hold a request whose images are still encoded."""

    prompts: list[str]
    images: list[str]  # in base64
    format: str
    size: tuple[int, int]  # height and width in pixels

    def batches(self, pixels: int) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield images (B, 3, H, W) in [0, 1] and their prompts, as many as `pixels` hold but at least one."""
        count = max(1, pixels // (self.size[0] * self.size[1]))
        for first in range(0, len(self.images), count):
            part = slice(first, first + count)
            yield torch.stack([self._decoded(text) for text in self.images[part]]), self.prompts[part]

    def _decoded(self, text: str) -> Tensor:
        file = _unbase64(text)
        return _values(file, self.size) if self.format == "float32" else _pixels(file, self.size)


def request(images: Tensor, prompts: list[str], form: str) -> bytes:
    """Write images (B, 3, H, W) in [0, 1] and their prompts as the body of a request."""
    write = {"png": _png, "float32": _raw}[form]
    coded = [base64.b64encode(write(image)).decode("ascii") for image in images.detach().float().cpu()]
    shape = {"shape": list(images.shape[1:])} if form == "float32" else {}
    return json.dumps({"prompts": list(prompts), "images": coded, "format": form, **shape}).encode()


def requested(body: bytes | bytearray, limits: Limits) -> Query:
    """Read a request without decoding its images; a bytearray is emptied, so that it is not in memory twice.

    ValueError if the request does not follow the format, TooLarge if it exceeds a limit.
    """
    content = parsed_object(_text(body, limits))
    form, shape = content.get("format"), content.get("shape")
    if form not in FORMATS:
        raise ValueError(f"format={_named(form)} is not one of {', '.join(FORMATS)}")
    prompts, images = _texts(content, "prompts"), _texts(content, "images")
    if not images or len(images) != len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts and {len(images)} images: expected one prompt per image, at least one"
        )
    sizes = [_shape(shape)] if form == "float32" else sorted({_png_size(text) for text in images})
    for size in sizes:
        _check_size(size, len(images), limits)
    if len(sizes) > 1:
        raise ValueError(f"images of {len(sizes)} sizes, such as {sizes[0]} and {sizes[1]}: expected one size")
    return Query(prompts, images, form, sizes[0])


def reply(scores: Tensor) -> bytes:
    """Write scores (B,) as the body of a reply."""
    return json.dumps({"scores": [score if score - score == 0 else None for score in scores.tolist()]}).encode()


def replied(body: bytes, count: int) -> list[float]:
    """Read the scores of a reply; ValueError unless they are `count` numbers."""
    scores = parsed_object(body).get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        found = f"{len(scores)} scores" if isinstance(scores, list) else f"{bytes(body[:80])!r}"
        raise ValueError(f'the answer is {found} for {count} images, expected {{"scores": [{count} numbers]}}')
    return [_score(score) for score in scores]


def reply_limit(count: int) -> int:
    """Return how many bytes the reply to a request of `count` images may have."""
    return 64 * 1024 + 64 * count


def parsed_object(body: str | bytes) -> dict[str, Any]:
    """Read a JSON object; ValueError if the body is anything else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(f"this is not JSON: {body[:40]!r}") from None
    if not isinstance(content, dict):
        raise ValueError(f"this is not a JSON object: {body[:40]!r}")
    return content


def _score(score: Any) -> float:
    """Return a score of a reply; ValueError if it is no number that a float holds."""
    if score is None:
        return float("nan")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"the answer has the score {_named(score)}, expected a number")
    try:
        return float(score)
    except OverflowError:
        raise ValueError("the answer has a score beyond what a float holds, expected a number") from None


def _named(value: Any) -> str:
    """Return a value of JSON in words; a list or an object by its type alone, since it may be nested deep."""
    return f"{value!r:.80}" if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _text(body: bytes | bytearray, limits: Limits) -> str:
    """Return a body as text, and empty it if it can be; TooLarge if its text or its values would take too much memory.

    One character beyond the first 65,536 makes Python hold four bytes for each of its text.
    """
    plain = body.isascii() and not any(map(body.__contains__, (b"\\ud", b"\\uD")))
    for found, most, what in (
        (
            len(body),
            limits.bytes if plain else limits.bytes // 2,
            f"bytes{'' if plain else ' with characters beyond ASCII'}",
        ),
        (sum(map(body.count, (b",", b"[", b"{"))), STRUCTURE, "commas and brackets"),
    ):
        if found > most:
            raise TooLarge(f"a request of {found} {what}, expected at most {most}; send fewer images at a time")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the request is not UTF-8: {error.reason} at byte {error.start}") from None
    if isinstance(body, bytearray):
        body.clear()
    return text


def _texts(content: dict[str, Any], key: str) -> list[str]:
    texts = content.get(key)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is not a list of texts")
    return texts


def _check_size(size: tuple[int, int], count: int, limits: Limits) -> None:
    """Raise TooLarge or ValueError if images of this height and width cannot be scored."""
    height, width = size
    if min(size) < 1 or max(size) > RATIO * min(size):
        raise ValueError(
            f"an image of {width}x{height} pixels, expected sides that differ by a factor of {RATIO} or less"
        )
    if height * width > limits.pixels:
        raise TooLarge(f"an image of {width}x{height} pixels, expected at most {limits.pixels} pixels")
    if count * height * width > limits.request_pixels:
        raise TooLarge(
            f"{count} images of {width}x{height} pixels, expected at most {limits.request_pixels} pixels in all;"
            " send fewer images at a time"
        )


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"an image is not base64: {error}") from None


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    pixels = (image.nan_to_num().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _png_size(text: str) -> tuple[int, int]:
    """Return the height and width that a PNG file in base64 states in its first bytes; ValueError if it is no PNG."""
    start = re.sub(r"[^A-Za-z0-9+/]", "", text[:128])[:32]
    head = PNG_HEAD.fullmatch(base64.b64decode(start) if len(start) == 32 else b"")
    if head is None:
        raise ValueError("an image is not a PNG file")
    width, height = struct.unpack(">II", head[1])
    return height, width


def _pixels(file: bytes, size: tuple[int, int]) -> Tensor:
    """Read a PNG file of this height and width as (3, H, W) in [0, 1]; ValueError if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(file), formats=["PNG"])
            if picture.size != size[::-1]:
                raise ValueError("it states two sizes")
            values = np.array(picture.convert("RGB"))
    except Exception as error:  # damaged data makes a decoder raise almost anything
        raise ValueError(f"an image is not a readable PNG file: {error}") from None
    return torch.from_numpy(values).permute(2, 0, 1).float() / 255


def _raw(image: Tensor) -> bytes:
    return image.contiguous().numpy().astype("<f4").tobytes()


def _shape(shape: Any) -> tuple[int, int]:
    """Return the height and width of a float32 request; ValueError if its shape is none."""
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int for n in shape) or shape[0] != 3:
        raise ValueError(f"shape={_named(shape)} of float32 images, expected [3, H, W]")
    return shape[1], shape[2]


def _values(file: bytes, size: tuple[int, int]) -> Tensor:
    """Read float32 values as an image of this height and width; ValueError if their number is wrong."""
    height, width = size
    if len(file) != 12 * height * width:
        raise ValueError(f"an image has {len(file)} bytes, shape={[3, height, width]} needs {12 * height * width}")
    return torch.from_numpy(np.frombuffer(file, "<f4").astype(np.float32)).view(3, height, width)
