"""ImageReward (Xu et al., arXiv 2304.05977): BLIP reads the prompt beside the image, a head makes a score of it.

ImageReward's own layout, BLIP's and timm's, as stock transformers BLIP towers; no key is ignored but the unused.
"""

import re
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from rdt.rewards.base import Reward, crop, preprocess
from rdt.rewards.heads import fill, head, recompute, words
from rdt.weights import load_tensors, pinned

TEXT, VISION = "blip.text_encoder.", "blip.visual_encoder."
UNUSED = re.compile(r"blip\.(vision|text)_proj\.|.*\.position_ids$")
RENAMED = {
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


def blip(tensors: Tensors, vision_heads: int, text_heads: int) -> tuple[BlipVisionModel, BlipTextModel, Tensors]:
    """Both towers with these weights, and what is left for the head; ValueError naming a key unknown or missing."""
    seen, read, layers = split(tensors)
    with torch.device("meta"):  # every weight is overwritten
        vision = BlipVisionModel(_vision(seen, vision_heads))
        text = BlipTextModel(_text(read, text_heads), add_pooling_layer=False)
    fill(vision, seen, "ImageReward's vision tower")
    fill(text, read, "ImageReward's text tower")
    text.embeddings.position_ids = torch.arange(text.config.max_position_embeddings)[None]  # outside the state dict
    return vision, text, layers


def split(tensors: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """The published keys as transformers' vision tower, text tower and the head name them."""
    used = {key: value for key, value in tensors.items() if not UNUSED.match(key)}
    seen = {_renamed(key.removeprefix(VISION)): value for key, value in used.items() if key.startswith(VISION)}
    read = {key.removeprefix(TEXT): value for key, value in used.items() if key.startswith(TEXT)}
    layers = {key.removeprefix("mlp."): value for key, value in used.items() if key.startswith("mlp.")}
    if unknown := [key for key in used if not key.startswith((VISION, TEXT, "mlp."))]:
        raise ValueError(f"checkpoint has the unknown key {unknown[0]!r} ({len(unknown)} unknown): no ImageReward")
    return seen, read, layers


def _renamed(key: str) -> str:
    for theirs, ours in RENAMED.items():
        key = re.sub(theirs, ours, key)
    return key


def _vision(tensors: Tensors, heads: int) -> BlipVisionConfig:
    """An eps of 1e-6, which is timm's and not transformers' default."""
    width, _, patch, _ = _shape(tensors, "embeddings.patch_embedding.weight")
    inner, _ = _shape(tensors, "encoder.layers.0.mlp.fc1.weight")
    positions = _shape(tensors, "embeddings.position_embedding")[1]
    return BlipVisionConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=_depth(tensors, "encoder.layers."),
        num_attention_heads=_divisor(heads, width), patch_size=patch, image_size=round((positions - 1) ** 0.5) * patch,
        hidden_act="gelu", layer_norm_eps=1e-6,
    )  # fmt: skip


def _text(tensors: Tensors, heads: int) -> BlipTextConfig:
    """A decoder only in that its layers have cross-attention; it is called as an encoder."""
    vocabulary, width = _shape(tensors, "embeddings.word_embeddings.weight")
    inner, _ = _shape(tensors, "encoder.layer.0.intermediate.dense.weight")
    _, seen = _shape(tensors, "encoder.layer.0.crossattention.self.key.weight")
    return BlipTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, encoder_hidden_size=seen,
        num_hidden_layers=_depth(tensors, "encoder.layer."), num_attention_heads=_divisor(heads, width),
        max_position_embeddings=_shape(tensors, "embeddings.position_embeddings.weight")[0],
        hidden_act="gelu", layer_norm_eps=1e-12, is_decoder=True,
    )  # fmt: skip


def _shape(tensors: Tensors, key: str) -> tuple[int, ...]:
    if key not in tensors:
        raise ValueError(f"checkpoint lacks the key {key!r}: it is no ImageReward")
    return tuple(tensors[key].shape)


def _depth(tensors: Tensors, prefix: str) -> int:
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in tensors if key.startswith(prefix))


def _divisor(heads: int, width: int) -> int:
    if width % heads:
        raise ValueError(f"heads={heads} does not divide width={width} of ImageReward")
    return heads


MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the published model's scores
LENGTH = 35  # tokens; longer prompts are cut
CACHE = 4096  # prompts whose tokens are kept


class ImageReward(Reward):
    """About -2 to 2; a prompt is tokenised once."""

    def __init__(
        self, *, vision: BlipVisionModel, text: BlipTextModel, head: nn.Sequential, tokenizer: BertTokenizer,
        interpolation: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vision, self.text, self.head = vision, text, head
        self.tokenizer, self.interpolation = tokenizer, interpolation
        self._tokens = lru_cache(CACHE)(self._tokenise)
        self.float().eval().requires_grad_(False)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,); gradient reaches the images only."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = preprocess(images, self.vision.config.image_size, crop, self.interpolation)
            seen = self.vision(pixel_values=pixels).last_hidden_state
            ids, mask = (tokens.to(seen.device) for tokens in self.tokens(prompts))
            read = self.text(
                ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            ).last_hidden_state[:, 0]  # fmt: skip
            return (self.head(read).squeeze(-1) - MEAN) / STD

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of the prompts, (B, 35) each; what BLIP reads of them depends on the image, and is not kept."""
        ids, masks = zip(*map(self._tokens, prompts), strict=True)
        return torch.stack(ids), torch.stack(masks)

    def _tokenise(self, prompt: str) -> tuple[Tensor, Tensor]:
        said = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return said.input_ids[0], said.attention_mask[0]


def imagereward(
    *, checkpoint: str, sha256: str | None, tokenizer: str, vision_heads: int, text_heads: int,
    interpolation: str, checkpointing: bool,
) -> ImageReward:  # fmt: skip
    """From the published ImageReward.pt; all sizes but the head counts are read from the shapes of its tensors."""
    vision, text, layers = blip(load_tensors(pinned(checkpoint, sha256)), vision_heads, text_heads)
    if checkpointing:
        recompute([*vision.encoder.layers, *text.encoder.layer])
    return ImageReward(
        vision=vision, text=text, head=head(layers), tokenizer=words(BertTokenizer, tokenizer),
        interpolation=interpolation,
    )  # fmt: skip
