"""Makes requests to a scorer as clients may send them: any JSON, changed bytes, and pictures that are none."""

import base64
import json
import struct

import torch
from hypothesis import strategies as st

from rdt.rewards import wire

PICTURES = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


def mutated(draw: st.DrawFn) -> bytes:
    """Draw a request of which keys hold something else, or bytes were changed."""
    content = json.loads(wire.request(PICTURES, ["a ring", "a circle"], draw(st.sampled_from(wire.FORMATS))))
    content |= draw(st.dictionaries(st.sampled_from(["prompts", "images", "format", "shape"]), JSON, max_size=2))
    body = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.integers(0, 4))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(0, len(body)))]) if draw(st.booleans()) else bytes(body)


BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | st.composite(mutated)()


def png(width: int, height: int, pixels: bytes = b"") -> str:
    """Return a PNG file in base64 that states a size, whatever it holds."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\r" + head + b"\0\0\0\0" + pixels).decode()


def pngs(*files: str) -> bytes:
    """Return a request of PNG files."""
    return json.dumps({"prompts": ["a"] * len(files), "images": files, "format": "png"}).encode()
