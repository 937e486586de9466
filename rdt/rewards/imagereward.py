"""ImageReward (Xu et al., arXiv 2304.05977): BLIP's text network reads the prompt beside the image, a head scores it.

The published file has BLIP's and timm's key names. Its tensors go into transformers' BLIP networks; keys that the score
does not use are left out, and any other key that is unknown or missing is an error.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from rdt.rewards.base import Reward, crop, preprocess
from rdt.rewards.heads import TwoTowers, affine_head, fill, load_tokenizer, recompute
from rdt.weights import load_tensors, pinned

SCORE_MEAN, SCORE_STD = 0.16717362830052426, 1.0333394966054072  # of the published model's raw scores
LENGTH = 35  # tokens; longer prompts are cut
CACHE = 4096  # prompts whose tokens are kept

TEXT, VISION = "blip.text_encoder.", "blip.visual_encoder."
UNUSED = re.compile(r"blip\.(vision|text)_proj\.|.*\.position_ids$")
RENAMED = {  # published key -> transformers' key
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^blocks\.(\d+)\.norm([12])\.": r"encoder.layers.\1.layer_norm\2.",
    r"^blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"^blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
    r"^norm\.": "post_layernorm.",
}
Tensors = dict[str, Tensor]


class ImageReward(Reward):
    """Scores about -2 to 2, normalised as the authors do; a prompt is tokenised once."""

    def __init__(
        self,
        *,
        vision: BlipVisionModel,
        text: BlipTextModel,
        head: nn.Sequential,
        tokenizer: BertTokenizer,
        interpolation: str,
    ) -> None:
        super().__init__()
        self.vision, self.text, self.head = vision, text, head
        self.tokenizer, self.interpolation = tokenizer, interpolation
        self._tokens = lru_cache(CACHE)(self._tokenise)
        self.float().eval().requires_grad_(False)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, (B,), of images (B, 3, H, W) in [0, 1]; gradient reaches the images only."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = preprocess(images, self.vision.config.image_size, crop, self.interpolation)
            image = self.vision(pixel_values=pixels).last_hidden_state
            ids, mask = (tokens.to(image.device) for tokens in self.tokens(prompts))
            image_mask = torch.ones(image.shape[:2], dtype=torch.long, device=image.device)
            hidden = self.text(
                ids,
                attention_mask=mask,
                encoder_hidden_states=image,
                encoder_attention_mask=image_mask,
                is_decoder=False,
            ).last_hidden_state
            return (self.head(hidden[:, 0]).squeeze(-1) - SCORE_MEAN) / SCORE_STD

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask of the prompts, (B, 35) each; their features depend on the image and are not kept."""
        ids, masks = zip(*map(self._tokens, prompts), strict=True)
        return torch.stack(ids), torch.stack(masks)

    def _tokenise(self, prompt: str) -> tuple[Tensor, Tensor]:
        padded = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return padded.input_ids[0], padded.attention_mask[0]


def imagereward(*, weights: Mapping[str, Any], interpolation: str, checkpointing: bool) -> ImageReward:
    """Build ImageReward from the published ImageReward.pt; `weights` has the fields of TwoTowers."""
    files = TwoTowers(**weights)
    tensors = load_tensors(pinned(files.checkpoint, files.sha256))
    vision, text, head = blip(tensors, files.vision_heads, files.text_heads)
    if checkpointing:
        recompute([*vision.encoder.layers, *text.encoder.layer])
    return ImageReward(
        vision=vision,
        text=text,
        head=affine_head(head),
        tokenizer=load_tokenizer(BertTokenizer, files.tokenizer),
        interpolation=interpolation,
    )


def blip(tensors: Tensors, vision_heads: int, text_heads: int) -> tuple[BlipVisionModel, BlipTextModel, Tensors]:
    """Build both BLIP networks with the published tensors and return them with the head's tensors.

    Their shapes give all sizes but the head counts. ValueError names a key that is unknown or missing.
    """
    vision_tensors, text_tensors, head = split_checkpoint(tensors)
    with torch.device("meta"):  # every weight is overwritten
        vision = BlipVisionModel(_vision_config(vision_tensors, vision_heads))
        text = BlipTextModel(_text_config(text_tensors, text_heads), add_pooling_layer=False)
    fill(vision, vision_tensors, "ImageReward's vision tower")
    fill(text, text_tensors, "ImageReward's text tower")
    text.embeddings.position_ids = torch.arange(text.config.max_position_embeddings)[None]  # outside the state dict
    return vision, text, head


def split_checkpoint(tensors: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """Split the published tensors into vision tower, text tower and head, under the names that these modules use."""
    used = {key: value for key, value in tensors.items() if not UNUSED.match(key)}
    vision = {_renamed(key.removeprefix(VISION)): value for key, value in used.items() if key.startswith(VISION)}
    text = {key.removeprefix(TEXT): value for key, value in used.items() if key.startswith(TEXT)}
    head = {key.removeprefix("mlp."): value for key, value in used.items() if key.startswith("mlp.")}
    if unknown := [key for key in used if not key.startswith((VISION, TEXT, "mlp."))]:
        raise ValueError(f"checkpoint has the unknown key {unknown[0]!r} ({len(unknown)} unknown): not an ImageReward")
    return vision, text, head


def _renamed(key: str) -> str:
    for theirs, ours in RENAMED.items():
        key = re.sub(theirs, ours, key)
    return key


def _vision_config(tensors: Tensors, heads: int) -> BlipVisionConfig:
    """Return the vision tower's config; its eps of 1e-6 is timm's, not transformers' default."""
    width, _, patch, _ = _shape(tensors, "embeddings.patch_embedding.weight")
    inner, _ = _shape(tensors, "encoder.layers.0.mlp.fc1.weight")
    positions = _shape(tensors, "embeddings.position_embedding")[1]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=_depth(tensors, "encoder.layers."),
        num_attention_heads=_divisor(heads, width),
        patch_size=patch,
        image_size=round((positions - 1) ** 0.5) * patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def _text_config(tensors: Tensors, heads: int) -> BlipTextConfig:
    """Return the text tower's config; is_decoder adds cross-attention to its layers, forward runs it as an encoder."""
    vocabulary, width = _shape(tensors, "embeddings.word_embeddings.weight")
    inner, _ = _shape(tensors, "encoder.layer.0.intermediate.dense.weight")
    _, image_width = _shape(tensors, "encoder.layer.0.crossattention.self.key.weight")
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        encoder_hidden_size=image_width,
        num_hidden_layers=_depth(tensors, "encoder.layer."),
        num_attention_heads=_divisor(heads, width),
        max_position_embeddings=_shape(tensors, "embeddings.position_embeddings.weight")[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,
    )


def _shape(tensors: Tensors, key: str) -> tuple[int, ...]:
    if key not in tensors:
        raise ValueError(f"checkpoint has no key {key!r}: it is not an ImageReward")
    return tuple(tensors[key].shape)


def _depth(tensors: Tensors, prefix: str) -> int:
    """Count the layers whose keys begin with the prefix."""
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in tensors if key.startswith(prefix))


def _divisor(heads: int, width: int) -> int:
    """Return the head count; ValueError unless it divides the width."""
    if width % heads:
        raise ValueError(f"heads={heads} does not divide width={width} of ImageReward")
    return heads
