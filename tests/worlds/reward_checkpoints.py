"""Builds tiny random checkpoints in the published formats, and computes their authors' scores, written out in torch.

No two widths are equal, so that a missing transpose does not fit. Norms and biases are random, so that a forgotten or
exchanged one changes the score. The input of each first norm is small, so that its eps matters. Nothing here uses
rdt's converters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)

from rdt.shapes.tokenizer import LENGTH, build

SIZE, PATCH, JOINT = 20, 5, 12
VISION, TEXT = {"width": 24, "inner": 56, "layers": 2, "heads": 3}, {"width": 16, "inner": 40, "layers": 3, "heads": 2}
HEADS = {"vision_heads": VISION["heads"], "text_heads": TEXT["heads"]}
HEAD = {0: 10, 2: 8, 4: 6, 6: 4, 7: 1}  # widths of the layers of the published heads, by their place
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY += ["a", "red", "small", "blue", "ring", "circle", "on", "white", "shape", "cross"]
Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def random(shapes: Shapes, seed: int = 0) -> Tensors:
    """Draw weights that keep a layer's scale, norms about 1, biases about 0, and small embeddings."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _random(key, torch.randn(shape, generator=generator)) for key, shape in shapes.items()}


def _random(key: str, noise: Tensor) -> Tensor:
    if noise.ndim < 2 and "embed" not in key:
        norm = key.endswith("weight")
        return 1 + 0.3 * noise if norm else 0.3 * noise
    small = any(part in key.lower() for part in ("embed", "conv1", "cls_token"))
    return 0.02 * noise if small else noise / math.sqrt(noise.shape[-1])


def linear(name: str, out: int, inner: int) -> Shapes:
    """Return keys and shapes of an affine layer."""
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    """Return keys and shapes of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


# open_clip, in which HPS is published


@dataclass(frozen=True)
class ClipSizes:
    """Holds the sizes of an open_clip checkpoint."""

    vision: dict[str, int]
    text: dict[str, int]
    size: int  # pixels
    patch: int  # pixels
    joint: int  # width of the joint embedding
    vocabulary: int
    length: int  # tokens


TINY_CLIP = ClipSizes(VISION, TEXT, SIZE, PATCH, JOINT, len(build()), LENGTH)


def open_clip(sizes: ClipSizes = TINY_CLIP) -> Shapes:
    """Return keys and shapes of an open_clip checkpoint."""
    wide, narrow = sizes.vision["width"], sizes.text["width"]
    return {
        "positional_embedding": (sizes.length, narrow),
        "text_projection": (narrow, sizes.joint),
        "logit_scale": (),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": ((sizes.size // sizes.patch) ** 2 + 1, wide),
        "visual.proj": (wide, sizes.joint),
        "visual.conv1.weight": (wide, 3, sizes.patch, sizes.patch),
        **norm("visual.ln_pre", wide),
        **_blocks("visual.transformer.resblocks", sizes.vision),
        **norm("visual.ln_post", wide),
        **_blocks("transformer.resblocks", sizes.text),
        "token_embedding.weight": (sizes.vocabulary, narrow),
        **norm("ln_final", narrow),
    }


def _blocks(name: str, tower: dict[str, int]) -> Shapes:
    d, inner = tower["width"], tower["inner"]
    shapes: Shapes = {}
    for block in (f"{name}.{i}" for i in range(tower["layers"])):
        shapes |= norm(f"{block}.ln_1", d) | norm(f"{block}.ln_2", d) | linear(f"{block}.attn.out_proj", d, d)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * d, d), f"{block}.attn.in_proj_bias": (3 * d,)}
        shapes |= linear(f"{block}.mlp.c_fc", inner, d) | linear(f"{block}.mlp.c_proj", d, inner)
    return shapes


@dataclass(frozen=True)
class OpenClip:
    """Computes what open_clip computes from tiny tensors, with nn.MultiheadAttention's own function."""

    tensors: Tensors
    activation: Callable[[Tensor], Tensor] = F.gelu
    eps: float = 1e-5

    def cosine(self, pixels: Tensor, ids: Tensor, end: int) -> Tensor:
        """Return cos(image, text), (B,)."""
        return F.cosine_similarity(self.image(pixels), self.text(ids, end))

    def image(self, pixels: Tensor) -> Tensor:
        """Return the embeddings of images, (B, D)."""
        t = self.tensors
        x = F.conv2d(pixels, t["visual.conv1.weight"], stride=PATCH).flatten(2).mT
        x = torch.cat([t["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + t["visual.positional_embedding"]
        x = self._tower(self._normed(x, "visual.ln_pre"), "visual.transformer.resblocks", VISION, None)
        return self._normed(x[:, 0], "visual.ln_post") @ t["visual.proj"]

    def text(self, ids: Tensor, end: int) -> Tensor:
        """Return the embeddings of texts, (B, D)."""
        t = self.tensors
        y = t["token_embedding.weight"][ids] + t["positional_embedding"]
        causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        y = self._normed(self._tower(y, "transformer.resblocks", TEXT, causal), "ln_final")
        return y[torch.arange(len(y)), (ids == end).int().argmax(1)] @ t["text_projection"]

    def _tower(self, x: Tensor, name: str, tower: dict[str, int], mask: Tensor | None) -> Tensor:
        t = self.tensors
        for block in (f"{name}.{i}" for i in range(tower["layers"])):
            h = self._normed(x, f"{block}.ln_1").transpose(0, 1)  # sequence first
            a, out = f"{block}.attn", f"{block}.attn.out_proj"
            h, _ = F.multi_head_attention_forward(
                h, h, h, x.shape[-1], tower["heads"], t[f"{a}.in_proj_weight"], t[f"{a}.in_proj_bias"], None, None,
                False, 0.0, t[f"{out}.weight"], t[f"{out}.bias"], training=False, need_weights=False, attn_mask=mask,
            )  # fmt: skip
            x = x + h.transpose(0, 1)
            fc, proj = f"{block}.mlp.c_fc", f"{block}.mlp.c_proj"
            h = self.activation(F.linear(self._normed(x, f"{block}.ln_2"), t[f"{fc}.weight"], t[f"{fc}.bias"]))
            x = x + F.linear(h, t[f"{proj}.weight"], t[f"{proj}.bias"])
        return x

    def _normed(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], self.eps)


# ImageReward: BLIP with timm's image transformer and BERT with cross-attention, and a head

IMAGE_TOWER, TEXT_TOWER = "blip.visual_encoder", "blip.text_encoder"


@dataclass(frozen=True)
class BlipSizes:
    """Holds the sizes of an ImageReward checkpoint."""

    vision: dict[str, int]
    text: dict[str, int]
    size: int  # pixels
    patch: int  # pixels
    vocabulary: int
    length: int  # tokens
    head: dict[int, int]  # widths, by place


TINY_BLIP = BlipSizes(VISION, TEXT, SIZE, PATCH, len(VOCABULARY) + 2, 40, HEAD)


def imagereward(sizes: BlipSizes = TINY_BLIP) -> Shapes:
    """Return keys and shapes of an ImageReward checkpoint."""
    head = {f"mlp.{key}": shape for key, shape in affine(sizes.text["width"], sizes.head).items()}
    return _image_tower(sizes) | _text_tower(sizes) | head


def _image_tower(sizes: BlipSizes) -> Shapes:
    wide, inner, patch = sizes.vision["width"], sizes.vision["inner"], sizes.patch
    shapes: Shapes = {
        f"{IMAGE_TOWER}.cls_token": (1, 1, wide),
        f"{IMAGE_TOWER}.pos_embed": (1, (sizes.size // patch) ** 2 + 1, wide),
        f"{IMAGE_TOWER}.patch_embed.proj.weight": (wide, 3, patch, patch),
        f"{IMAGE_TOWER}.patch_embed.proj.bias": (wide,),
        **norm(f"{IMAGE_TOWER}.norm", wide),
        **linear("blip.vision_proj", 9, wide),
    }
    for block in (f"{IMAGE_TOWER}.blocks.{i}" for i in range(sizes.vision["layers"])):
        shapes |= norm(f"{block}.norm1", wide) | norm(f"{block}.norm2", wide)
        shapes |= linear(f"{block}.attn.qkv", 3 * wide, wide) | linear(f"{block}.attn.proj", wide, wide)
        shapes |= linear(f"{block}.mlp.fc1", inner, wide) | linear(f"{block}.mlp.fc2", wide, inner)
    return shapes


def _text_tower(sizes: BlipSizes) -> Shapes:
    wide, narrow, inner = sizes.vision["width"], sizes.text["width"], sizes.text["inner"]
    shapes: Shapes = {
        f"{TEXT_TOWER}.embeddings.position_ids": (1, sizes.length),
        f"{TEXT_TOWER}.embeddings.word_embeddings.weight": (sizes.vocabulary, narrow),
        f"{TEXT_TOWER}.embeddings.position_embeddings.weight": (sizes.length, narrow),
        **norm(f"{TEXT_TOWER}.embeddings.LayerNorm", narrow),
        **linear("blip.text_proj", 9, narrow),
    }
    for layer in (f"{TEXT_TOWER}.encoder.layer.{i}" for i in range(sizes.text["layers"])):
        for name, source in (("attention", narrow), ("crossattention", wide)):
            shapes |= linear(f"{layer}.{name}.self.query", narrow, narrow)
            shapes |= linear(f"{layer}.{name}.self.key", narrow, source)
            shapes |= linear(f"{layer}.{name}.self.value", narrow, source)
            shapes |= linear(f"{layer}.{name}.output.dense", narrow, narrow)
            shapes |= norm(f"{layer}.{name}.output.LayerNorm", narrow)
        shapes |= linear(f"{layer}.intermediate.dense", inner, narrow)
        shapes |= linear(f"{layer}.output.dense", narrow, inner) | norm(f"{layer}.output.LayerNorm", narrow)
    return shapes


def affine(inputs: int, widths: dict[int, int] = HEAD) -> Shapes:
    """Return keys and shapes of a five-layer head."""
    ins = [inputs, *list(widths.values())[:-1]]
    return {
        key: shape
        for (place, out), inner in zip(widths.items(), ins, strict=True)
        for key, shape in linear(f"layers.{place}", out, inner).items()
    }


def through(t: Tensors, x: Tensor, prefix: str = "") -> Tensor:
    """Apply a head without its dropout, (B, D) -> (B,)."""
    for place in HEAD:
        x = F.linear(x, t[f"{prefix}layers.{place}.weight"], t[f"{prefix}layers.{place}.bias"])
    return x.squeeze(-1)


@dataclass(frozen=True)
class Blip:
    """Computes ImageReward from tiny tensors as its authors' vit.py and med.py do."""

    tensors: Tensors
    eps: float = 1e-6
    causal: bool = False
    activation: Callable[[Tensor], Tensor] = F.gelu

    def score(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the published score, (B,)."""
        y = self.text(ids, mask, self.image(pixels))
        return (through(self.tensors, y[:, 0], "mlp.") - 0.16717362830052426) / 1.0333394966054072

    def image(self, pixels: Tensor) -> Tensor:
        """Return the image tower's output, (B, N, D)."""
        t, name = self.tensors, f"{IMAGE_TOWER}.patch_embed.proj"
        x = F.conv2d(pixels, t[f"{name}.weight"], t[f"{name}.bias"], PATCH).flatten(2).mT
        x = torch.cat([t[f"{IMAGE_TOWER}.cls_token"].expand(len(x), 1, -1), x], 1) + t[f"{IMAGE_TOWER}.pos_embed"]
        for block in (f"{IMAGE_TOWER}.blocks.{i}" for i in range(VISION["layers"])):
            qkv = self._dense(self._normed(x, f"{block}.norm1", self.eps), f"{block}.attn.qkv")
            x = x + self._dense(_attended(*qkv.chunk(3, -1), VISION["heads"]), f"{block}.attn.proj")
            h = self.activation(self._dense(self._normed(x, f"{block}.norm2", self.eps), f"{block}.mlp.fc1"))
            x = x + self._dense(h, f"{block}.mlp.fc2")
        return self._normed(x, f"{IMAGE_TOWER}.norm", self.eps)

    def text(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Return the text tower's output beside an image, (B, N, D)."""
        t, embeddings = self.tensors, f"{TEXT_TOWER}.embeddings"
        y = t[f"{embeddings}.word_embeddings.weight"][ids]
        y = y + t[f"{embeddings}.position_embeddings.weight"][: ids.shape[1]]
        y = self._normed(y, f"{embeddings}.LayerNorm", 1e-12)
        bias = (1.0 - mask[:, None, None].float()) * -10000.0
        if self.causal:
            bias = bias + torch.full((ids.shape[1],) * 2, -10000.0).triu(1)
        for layer in (f"{TEXT_TOWER}.encoder.layer.{i}" for i in range(TEXT["layers"])):
            y = self._read(y, y, f"{layer}.attention", bias)
            y = self._read(y, image, f"{layer}.crossattention", None)
            h = self._dense(self.activation(self._dense(y, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
            y = self._normed(h + y, f"{layer}.output.LayerNorm", 1e-12)
        return y

    def _read(self, y: Tensor, source: Tensor, name: str, bias: Tensor | None) -> Tensor:
        q = self._dense(y, f"{name}.self.query")
        k, v = (self._dense(source, f"{name}.self.{part}") for part in ("key", "value"))
        h = self._dense(_attended(q, k, v, TEXT["heads"], bias), f"{name}.output.dense")
        return self._normed(h + y, f"{name}.output.LayerNorm", 1e-12)

    def _dense(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _normed(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], eps)


def _attended(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.mT / math.sqrt(q.shape[-1])
    return ((logits if bias is None else logits + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


# files


def clip_model(activation: str = "quick_gelu") -> CLIPModel:
    """Build a CLIPModel of OpenAI's kind with random parameters."""
    torch.manual_seed(0)
    tokenizer = build()
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = _tower(TEXT, activation) | special | {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    vision = _tower(VISION, activation) | {"image_size": SIZE, "patch_size": PATCH}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=JOINT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
    return model


def _tower(sizes: dict[str, int], activation: str) -> dict[str, int | str]:
    return {
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["inner"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "hidden_act": activation,
    }


def bert(folder: Path) -> BertTokenizer:
    """Save a BERT tokenizer of a few words in the folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return BertTokenizer.from_pretrained(folder)


def mask2former() -> Mask2FormerForUniversalSegmentation:
    """Return a tiny random Mask2Former of 80 classes, in transformers' own class."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=5, num_labels=80,
    )  # fmt: skip
    return Mask2FormerForUniversalSegmentation(config)


def write(folder: Path) -> dict[str, list[str]]:
    """Write tiny versions of all published files; return, by reward, the overrides with which a run finds them."""
    clip, words = folder / "clip", folder / "words"
    clip_model().save_pretrained(clip)
    build().save_pretrained(clip)
    bert(words)
    torch.save({"state_dict": {k: v.half() for k, v in random(open_clip()).items()}}, folder / "HPS_v2_compressed.pt")
    torch.save(random(imagereward()), folder / "ImageReward.pt")
    torch.save(random(affine(JOINT)), folder / "aesthetic-model.pth")
    mask2former().save_pretrained(folder / "mask2former")
    heads = [f"{key}={value}" for key, value in HEADS.items()]
    given = {
        "hps_v2": [f"checkpoint={folder / 'HPS_v2_compressed.pt'}", f"tokenizer={clip}", *heads],
        "pickscore": [f"checkpoint={clip}", f"tokenizer={clip}"],
        "clipscore": [f"checkpoint={clip}", f"tokenizer={clip}"],
        "aesthetic": [f"checkpoint={folder / 'aesthetic-model.pth'}", f"backbone={clip}"],
        "imagereward": [f"checkpoint={folder / 'ImageReward.pt'}", f"tokenizer={words}", *heads],
        "geneval": [f"checkpoint={folder / 'mask2former'}", f"backbone={clip}", f"tokenizer={clip}"],
    }
    return {name: [f"model.checkpoints.{name}.{item}" for item in items] for name, items in given.items()}
