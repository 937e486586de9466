"""Rewards that are the cosine between CLIP's embeddings of image and prompt: HPS v2 and v2.1, PickScore, CLIPScore."""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ftfy
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from rdt.rewards.base import Reward, SquareFit, crop, pad
from rdt.rewards.heads import TwoTowers, load_tokenizer, recompute
from rdt.rewards.open_clip import clip_model
from rdt.rewards.towers import ImageTower, clip_with_tower
from rdt.weights import load_tensors, pinned

CACHE = 4096  # prompts whose text features are kept


class ClipReward(Reward):
    """Scores scale * cos(image, prompt) in float32 and computes the text features once per prompt."""

    def __init__(
        self,
        *,
        model: CLIPModel,
        tower: ImageTower,
        tokenizer: CLIPTokenizer,
        fit: SquareFit,
        clean: Callable[[str], str],
        scale: float,
        interpolation: str,
    ) -> None:
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)
        self.tower = tower  # the image network of `model`
        self.tokenizer, self.fit, self.clean, self.scale = tokenizer, fit, clean, scale
        self.interpolation = interpolation
        self._cache: dict[str, Tensor] = {}

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, (B,), of images (B, 3, H, W) in [0, 1]; gradient reaches the images only."""
        image = self.image_features(images)
        return self.scale * (image * self.text_features(prompts).to(image)).sum(-1)

    def image_features(self, images: Tensor) -> Tensor:
        """Return the unit features (B, D) of images in [0, 1], with gradient."""
        return F.normalize(self.tower.features(images, self.fit, self.interpolation), dim=-1)

    def text_features(self, prompts: list[str]) -> Tensor:
        """Return the unit features (B, D) of the prompts; a prompt's features are kept for later calls."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if len(self._cache) + len(missing) > CACHE:
            self._cache.clear()
            missing = list(dict.fromkeys(prompts))
        for prompt in missing:  # one at a time, so that a prompt's bits do not depend on the batch
            self._cache[prompt] = self._encode([prompt])[0]
        return torch.stack([self._cache[prompt] for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        texts = [self.clean(prompt) for prompt in prompts]
        padded = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids = padded.input_ids.to(self.model.device)
        hidden = self.model.text_model(input_ids=ids).last_hidden_state
        # pooled here: transformers takes the largest id instead of the first end of text if that has id 2
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        return F.normalize(self.model.text_projection(hidden[torch.arange(len(ids)), end]), dim=-1)


@dataclass(frozen=True)
class ClipFolder:
    """Names a published CLIPModel folder and a tokenizer, for PickScore and CLIPScore, as `model.checkpoints` does."""

    checkpoint: str
    tokenizer: str
    sha256: str | None = None  # pins the weights in `checkpoint`


def hps(*, weights: Mapping[str, Any], interpolation: str = "bicubic", checkpointing: bool = False) -> ClipReward:
    """Build HPS v2 or v2.1 (Wu et al. 2023) from its published file: the bare cosine, images padded to a square.

    `weights` has the fields of TwoTowers.
    """
    files = TwoTowers(**weights)
    tokenizer = load_tokenizer(CLIPTokenizer, files.tokenizer)
    tensors = load_tensors(pinned(files.checkpoint, files.sha256))
    model = clip_model(tensors, files.vision_heads, files.text_heads, tokenizer.eos_token_id)
    if checkpointing:
        recompute(model.vision_model.encoder.layers)
    return ClipReward(
        model=model, tower=ImageTower(model), tokenizer=tokenizer, fit=pad, clean=open_clip_text, scale=1.0,
        interpolation=interpolation,
    )  # fmt: skip


def clipscore(
    *, weights: Mapping[str, Any], scaled: bool, interpolation: str = "bicubic", checkpointing: bool = False
) -> ClipReward:
    """Build CLIPScore (Hessel et al. 2021) or, `scaled` by the logit scale, PickScore (Kirstain et al. 2023).

    `weights` has the fields of ClipFolder.
    """
    files = ClipFolder(**weights)
    model, tower = clip_with_tower(files.checkpoint, files.sha256, checkpointing)
    scale = model.logit_scale.exp().item() if scaled else 1.0
    tokenizer = load_tokenizer(CLIPTokenizer, files.tokenizer)
    return ClipReward(
        model=model, tower=tower, tokenizer=tokenizer, fit=crop, clean=str, scale=scale, interpolation=interpolation
    )


def open_clip_text(text: str) -> str:
    """Clean a text as open_clip does and transformers' tokenizer does not."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
