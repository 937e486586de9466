"""What a scorer and its caller say to each other, in JSON over HTTP:

    POST {"prompts": [B texts], "images": [B texts in base64], "format": "png"}
    POST {"prompts": [B texts], "images": [B texts in base64], "format": "float32", "shape": [3, H, W]}
    200  {"scores": [B numbers, in the order of the images; null is not a number]}
    4xx  {"error": "what is wrong with the request"}, 5xx {"error": "what is wrong here"}, which is worth another try

A png is the file of an image, 8 bits a channel. A float32 image is its values in [0, 1], little-endian, row by row,
channel by channel: 3 H W of them. The images of a request have one size.
"""

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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
