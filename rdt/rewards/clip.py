"""Rewards that are the cosine between CLIP's embeddings of image and prompt: HPS v2 and v2.1, PickScore, CLIPScore."""

import html
from collections.abc import Callable

import ftfy
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from rdt.rewards.base import Fit, Reward, crop, pad, preprocess
from rdt.rewards.heads import recompute, words
from rdt.rewards.open_clip import clip_model
from rdt.weights import load_tensors, pinned, pretrained

CACHE = 4096  # prompts whose text features are kept


class ClipReward(Reward):
    """scale * cos(image, prompt), in float32; text features are computed once per prompt."""

    def __init__(
        self, *, model: CLIPModel, tokenizer: CLIPTokenizer, fit: Fit, clean: Callable[[str], str], scale: float,
        interpolation: str = "bicubic",
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer, self.fit, self.clean, self.scale = tokenizer, fit, clean, scale
        self.interpolation = interpolation
        self._cache: dict[str, Tensor] = {}

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,); gradient reaches the images only."""
        seen = self.image_features(images)
        return self.scale * (seen * self.text_features(prompts).to(seen)).sum(-1)

    def image_features(self, images: Tensor) -> Tensor:
        """Unit image features (B, D) of images in [0, 1]; carries gradient."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = preprocess(images, self.model.config.vision_config.image_size, self.fit, self.interpolation)
            return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    def text_features(self, prompts: list[str]) -> Tensor:
        """Unit text features (B, D), from the cache where the prompt was seen before."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if len(self._cache) + len(missing) > CACHE:
            self._cache.clear()
            missing = list(dict.fromkeys(prompts))
        for prompt in missing:  # one at a time: in company the last bits depend on who else is new
            self._cache[prompt] = self._encode([prompt])[0]
        return torch.stack([self._cache[prompt] for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        texts = [self.clean(prompt) for prompt in prompts]
        padded = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids = padded.input_ids.to(self.model.device)
        hidden = self.model.text_model(input_ids=ids).last_hidden_state
        # pooled here: transformers takes the largest id instead of the first end of text when that has id 2
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        return F.normalize(self.model.text_projection(hidden[torch.arange(len(ids)), end]), dim=-1)


# What has a default below came later: the config.yaml of an earlier run, which rdt.evaluate reads, does not have it.


def hps(
    *, checkpoint: str, tokenizer: str, vision_heads: int, text_heads: int,
    sha256: str | None = None, interpolation: str = "bicubic", checkpointing: bool = False,
) -> ClipReward:  # fmt: skip
    """HPS v2 or v2.1 (Wu et al. 2023) from its published file: the bare cosine, images padded to a square."""
    spoken = words(CLIPTokenizer, tokenizer)
    model = clip_model(load_tensors(pinned(checkpoint, sha256)), vision_heads, text_heads, spoken.eos_token_id)
    if checkpointing:
        recompute(model.vision_model.encoder.layers)
    return ClipReward(
        model=model, tokenizer=spoken, fit=pad, clean=open_clip_text, scale=1.0, interpolation=interpolation
    )


def clipscore(
    *, checkpoint: str, tokenizer: str, scaled: bool,
    sha256: str | None = None, interpolation: str = "bicubic", checkpointing: bool = False,
) -> ClipReward:  # fmt: skip
    """A CLIPModel folder as CLIPScore (Hessel 2021) or, `scaled` by its logit scale, as PickScore (Kirstain 2023)."""
    model = pretrained(CLIPModel, checkpoint, sha256)
    if checkpointing:
        recompute(model.vision_model.encoder.layers)
    scale = model.logit_scale.exp().item() if scaled else 1.0
    return ClipReward(
        model=model, tokenizer=words(CLIPTokenizer, tokenizer), fit=crop, clean=str, scale=scale,
        interpolation=interpolation,
    )  # fmt: skip


def open_clip_text(text: str) -> str:
    """The text as open_clip cleans it, which the tokenizer of transformers does not."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
