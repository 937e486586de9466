"""How well the text that a prompt asks for can be read in its image, as Flow-GRPO's OCR task (2505.05470) scores it.

    score = 1 - min(d, n) / n,  d = 0 if what is read contains the text, else the Levenshtein distance between the two,

n the text's characters, both in lower case and without blanks. The text is a field of the prompt's row in its file, or
else what stands first in quotation marks in the prompt. RapidOCR reads the images: PP-OCR on ONNX Runtime, whose
weights come with the package. Flow-GRPO reads with PaddleOCR, so that scores differ where the engines do.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdt.errors import UsageError
from rdt.rewards.base import Metadata, Reward, blank

QUOTED = re.compile('["“]([^"“”]+)["”]')
Read = Callable[[np.ndarray], str]  # an image (H, W, 3) of bytes, blue first -> the text in it


class OcrReward(Reward):
    """Scores images in [0, 1] by the text that is read in them; it has no gradient."""

    differentiable = False
    reads_metadata = True

    def __init__(self, *, field: str, read: Read | None = None) -> None:
        super().__init__()
        self.field, self.read = field, read or rapid_ocr()

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str], metadata: Sequence[Metadata]) -> Tensor:
        """Return the scores, (B,); ValueError for a prompt that asks for no text."""
        wanted = [self.wanted(*one) for one in zip(prompts, metadata, strict=True)]
        pixels = (images.nan_to_num().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).flip(-1).cpu().numpy()
        scores = [likeness(text, self.read(image)) for text, image in zip(wanted, pixels, strict=True)]
        return blank(torch.tensor(scores, dtype=torch.float32).to(images.device), images)

    def wanted(self, prompt: str, fields: Mapping[str, Any]) -> str:
        """Return the text that an image should show; ValueError if the prompt and its row name none."""
        quoted = QUOTED.search(prompt)
        text = fields.get(self.field, quoted[1] if quoted else None)
        if not isinstance(text, str) or not compared(text):
            raise ValueError(f"the prompt {prompt!r} has no text in quotation marks, and its row no field {self.field}")
        return text


def compared(text: str) -> str:
    """Return a text as it is compared: in lower case and without blanks."""
    return "".join(text.lower().split())


def likeness(wanted: str, found: str) -> float:
    """Return the score of a text that was found for the one that was wanted, in [0, 1]."""
    wanted, found = compared(wanted), compared(found)
    return 1.0 if wanted in found else 1 - min(levenshtein(wanted, found), len(wanted)) / len(wanted)


def levenshtein(a: str, b: str) -> int:
    """Return the least number of insertions, deletions and replacements that turn one text into the other."""
    row = list(range(len(b) + 1))
    for i, character in enumerate(a, start=1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (character != other))
    return row[-1]


@cache
def rapid_ocr() -> Read:
    """Return RapidOCR's reader, which joins the lines of an image; UsageError if the package is not here."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        install = "pip install -c constraints.txt -e '.[ocr]'"
        raise UsageError(f"reward=ocr reads images with RapidOCR, which is not here ({error}): {install}") from None
    engine = RapidOCR()

    def read(image: np.ndarray) -> str:
        lines, _ = engine(np.ascontiguousarray(image))
        return " ".join(text for _, text, _ in lines or ())

    return read
