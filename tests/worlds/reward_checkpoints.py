"""Tiny random checkpoints in the published formats, and what their authors' code makes of them, written out in torch.

No two widths are equal, so that a missing transpose does not fit; norms and biases are random, so that a forgotten or
exchanged one shows; what enters a first norm is small, so that its eps shows. Nothing here uses rdt's converters.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertTokenizer, CLIPConfig, CLIPModel

from rdt.shapes.tokenizer import LENGTH, build

SIZE, PATCH, JOINT = 20, 5, 12
VISION, TEXT = {"width": 24, "inner": 56, "layers": 2, "heads": 3}, {"width": 16, "inner": 40, "layers": 3, "heads": 2}
HEADS = {"vision_heads": VISION["heads"], "text_heads": TEXT["heads"]}
HEAD = {0: 10, 2: 8, 4: 6, 6: 4, 7: 1}  # widths of the published heads' layers, by their place
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["a", "red", "small", "blue", "ring", "circle", "on", "white", "shape", "cross"],
]
WORDS = 35  # tokens that ImageReward reads
Tensors = dict[str, Tensor]


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Normal weights of the size that keeps a layer's scale, norms about 1, biases about 0, embeddings small."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _random(key, torch.randn(shape, generator=generator)) for key, shape in shapes.items()}


def _random(key: str, noise: Tensor) -> Tensor:
    if noise.ndim < 2 and "embed" not in key:
        norm = key.endswith("weight")
        return 1 + 0.3 * noise if norm else 0.3 * noise
    small = any(part in key.lower() for part in ("embed", "conv1", "cls_token"))
    return 0.02 * noise if small else noise / math.sqrt(noise.shape[-1])


def linear(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Shapes of an affine layer."""
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


# open_clip, in which HPS is published


def open_clip(vision: dict = VISION, text: dict = TEXT, size: int = SIZE, patch: int = PATCH, joint: int = JOINT,
              vocabulary: int | None = None, length: int = LENGTH) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Keys and shapes."""
    wide, narrow = vision["width"], text["width"]
    return {
        "positional_embedding": (length, narrow),
        "text_projection": (narrow, joint),
        "logit_scale": (),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, wide),
        "visual.proj": (wide, joint),
        "visual.conv1.weight": (wide, 3, patch, patch),
        **norm("visual.ln_pre", wide),
        **_blocks("visual.transformer.resblocks", vision),
        **norm("visual.ln_post", wide),
        **_blocks("transformer.resblocks", text),
        "token_embedding.weight": (vocabulary or len(build()), narrow),
        **norm("ln_final", narrow),
    }


def _blocks(name: str, tower: dict) -> dict[str, tuple[int, ...]]:
    d, inner, shapes = tower["width"], tower["inner"], {}
    for block in (f"{name}.{i}" for i in range(tower["layers"])):
        shapes |= norm(f"{block}.ln_1", d) | norm(f"{block}.ln_2", d) | linear(f"{block}.attn.out_proj", d, d)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * d, d), f"{block}.attn.in_proj_bias": (3 * d,)}
        shapes |= linear(f"{block}.mlp.c_fc", inner, d) | linear(f"{block}.mlp.c_proj", d, inner)
    return shapes


def open_clip_cosine(t: Tensors, pixels: Tensor, ids: Tensor, end: int, activation=F.gelu, eps: float = 1e-5) -> Tensor:
    """cos(image, text) as open_clip computes it, with nn.MultiheadAttention's own function; (B,)."""

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)

    def blocks(x: Tensor, name: str, tower: dict, mask: Tensor | None) -> Tensor:
        for block in (f"{name}.{i}" for i in range(tower["layers"])):
            h = normed(x, f"{block}.ln_1").transpose(0, 1)  # sequence first
            a, out = f"{block}.attn", f"{block}.attn.out_proj"
            h, _ = F.multi_head_attention_forward(
                h, h, h, x.shape[-1], tower["heads"], t[f"{a}.in_proj_weight"], t[f"{a}.in_proj_bias"], None, None,
                False, 0.0, t[f"{out}.weight"], t[f"{out}.bias"], training=False, need_weights=False, attn_mask=mask,
            )  # fmt: skip
            x = x + h.transpose(0, 1)
            fc, proj = f"{block}.mlp.c_fc", f"{block}.mlp.c_proj"
            h = activation(F.linear(normed(x, f"{block}.ln_2"), t[f"{fc}.weight"], t[f"{fc}.bias"]))
            x = x + F.linear(h, t[f"{proj}.weight"], t[f"{proj}.bias"])
        return x

    x = F.conv2d(pixels, t["visual.conv1.weight"], stride=PATCH).flatten(2).mT
    x = torch.cat([t["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + t["visual.positional_embedding"]
    x = blocks(normed(x, "visual.ln_pre"), "visual.transformer.resblocks", VISION, None)
    image = normed(x[:, 0], "visual.ln_post") @ t["visual.proj"]
    y = t["token_embedding.weight"][ids] + t["positional_embedding"]
    causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    y = normed(blocks(y, "transformer.resblocks", TEXT, causal), "ln_final")
    words = y[torch.arange(len(y)), (ids == end).int().argmax(1)] @ t["text_projection"]
    return F.cosine_similarity(image, words)


# ImageReward: BLIP with timm's image transformer and BERT with cross-attention, and a head


def imagereward(vision: dict = VISION, text: dict = TEXT, size: int = SIZE, patch: int = PATCH,
                vocabulary: int = len(VOCABULARY) + 2, length: int = 40, head: dict = HEAD) -> dict:  # fmt: skip
    """Keys and shapes."""
    wide, narrow, eyes, reader = vision["width"], text["width"], "blip.visual_encoder", "blip.text_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{eyes}.cls_token": (1, 1, wide),
        f"{eyes}.pos_embed": (1, (size // patch) ** 2 + 1, wide),
        f"{eyes}.patch_embed.proj.weight": (wide, 3, patch, patch),
        f"{eyes}.patch_embed.proj.bias": (wide,),
        f"{reader}.embeddings.position_ids": (1, length),
        f"{reader}.embeddings.word_embeddings.weight": (vocabulary, narrow),
        f"{reader}.embeddings.position_embeddings.weight": (length, narrow),
        **norm(f"{reader}.embeddings.LayerNorm", narrow),
        **norm(f"{eyes}.norm", wide),
        **linear("blip.vision_proj", 9, wide),
        **linear("blip.text_proj", 9, narrow),
    }
    for block in (f"{eyes}.blocks.{i}" for i in range(vision["layers"])):
        shapes |= norm(f"{block}.norm1", wide) | norm(f"{block}.norm2", wide)
        shapes |= linear(f"{block}.attn.qkv", 3 * wide, wide) | linear(f"{block}.attn.proj", wide, wide)
        shapes |= linear(f"{block}.mlp.fc1", vision["inner"], wide) | linear(f"{block}.mlp.fc2", wide, vision["inner"])
    for layer in (f"{reader}.encoder.layer.{i}" for i in range(text["layers"])):
        for name, seen in (("attention", narrow), ("crossattention", wide)):
            for part, inner in (
                ("self.query", narrow),
                ("self.key", seen),
                ("self.value", seen),
                ("output.dense", narrow),
            ):
                shapes |= linear(f"{layer}.{name}.{part}", narrow, inner)
            shapes |= norm(f"{layer}.{name}.output.LayerNorm", narrow)
        shapes |= linear(f"{layer}.intermediate.dense", text["inner"], narrow)
        shapes |= linear(f"{layer}.output.dense", narrow, text["inner"]) | norm(f"{layer}.output.LayerNorm", narrow)
    return shapes | {f"mlp.{key}": shape for key, shape in affine(narrow, head).items()}


def affine(inputs: int, widths: dict[int, int] = HEAD) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the five-layer heads."""
    ins = [inputs, *list(widths.values())[:-1]]
    return {
        key: shape for (place, out), inner in zip(widths.items(), ins, strict=True)
        for key, shape in linear(f"layers.{place}", out, inner).items()
    }  # fmt: skip


def through(t: Tensors, x: Tensor, prefix: str = "") -> Tensor:
    """The head, dropout away; (B, D) -> (B,)."""
    for place in HEAD:
        x = F.linear(x, t[f"{prefix}layers.{place}.weight"], t[f"{prefix}layers.{place}.bias"])
    return x.squeeze(-1)


def imagereward_score(t: Tensors, pixels: Tensor, ids: Tensor, mask: Tensor, eps: float = 1e-6, causal: bool = False,
                      activation=F.gelu) -> Tensor:  # fmt: skip
    """The published score as the authors' vit.py and med.py compute it; (B,)."""

    def dense(x: Tensor, name: str) -> Tensor:
        return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def normed(x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        return ((logits if hidden is None else logits + hidden).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def read(y: Tensor, seen: Tensor, name: str, hidden: Tensor | None) -> Tensor:
        q, k, v = dense(y, f"{name}.self.query"), dense(seen, f"{name}.self.key"), dense(seen, f"{name}.self.value")
        told = dense(attend(q, k, v, TEXT["heads"], hidden), f"{name}.output.dense")
        return normed(told + y, f"{name}.output.LayerNorm", 1e-12)

    eyes, reader = "blip.visual_encoder", "blip.text_encoder"
    x = F.conv2d(pixels, t[f"{eyes}.patch_embed.proj.weight"], t[f"{eyes}.patch_embed.proj.bias"], PATCH).flatten(2).mT
    x = torch.cat([t[f"{eyes}.cls_token"].expand(len(x), 1, -1), x], 1) + t[f"{eyes}.pos_embed"]
    for block in (f"{eyes}.blocks.{i}" for i in range(VISION["layers"])):
        qkv = dense(normed(x, f"{block}.norm1", eps), f"{block}.attn.qkv")
        x = x + dense(attend(*qkv.chunk(3, -1), VISION["heads"]), f"{block}.attn.proj")
        h = activation(dense(normed(x, f"{block}.norm2", eps), f"{block}.mlp.fc1"))
        x = x + dense(h, f"{block}.mlp.fc2")
    seen = normed(x, f"{eyes}.norm", eps)
    y = t[f"{reader}.embeddings.word_embeddings.weight"][ids]
    y = y + t[f"{reader}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = normed(y, f"{reader}.embeddings.LayerNorm", 1e-12)
    hidden = (1.0 - mask[:, None, None].float()) * -10000.0
    if causal:
        hidden = hidden + torch.full((ids.shape[1],) * 2, -10000.0).triu(1)
    for layer in (f"{reader}.encoder.layer.{i}" for i in range(TEXT["layers"])):
        y = read(y, y, f"{layer}.attention", hidden)
        y = read(y, seen, f"{layer}.crossattention", None)
        h = dense(activation(dense(y, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        y = normed(h + y, f"{layer}.output.LayerNorm", 1e-12)
    return (through(t, y[:, 0], "mlp.") - 0.16717362830052426) / 1.0333394966054072


# files


def clip_model(activation: str = "quick_gelu") -> CLIPModel:
    """A CLIPModel of OpenAI's kind, every parameter random."""
    torch.manual_seed(0)
    tokenizer = build()
    special = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)

    def tower(sizes: dict) -> dict:
        return dict(hidden_size=sizes["width"], intermediate_size=sizes["inner"], num_hidden_layers=sizes["layers"],
                    num_attention_heads=sizes["heads"], hidden_act=activation)  # fmt: skip

    text = tower(TEXT) | special | dict(vocab_size=len(tokenizer), max_position_embeddings=LENGTH)
    vision = tower(VISION) | dict(image_size=SIZE, patch_size=PATCH)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=JOINT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
    return model


def bert(folder: Path) -> BertTokenizer:
    """A BERT tokenizer of a few words, saved in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return BertTokenizer.from_pretrained(folder)


def write(folder: Path) -> dict[str, list[str]]:
    """All published files, tiny, and by reward the overrides with which a run finds its own."""
    clip, words = folder / "clip", folder / "words"
    clip_model().save_pretrained(clip)
    build().save_pretrained(clip)
    bert(words)
    torch.save({"state_dict": {k: v.half() for k, v in random(open_clip()).items()}}, folder / "HPS_v2_compressed.pt")
    torch.save(random(imagereward()), folder / "ImageReward.pt")
    torch.save(random(affine(JOINT)), folder / "aesthetic-model.pth")
    heads = [f"{key}={value}" for key, value in HEADS.items()]
    given = {
        "hps_v2": [f"checkpoint={folder / 'HPS_v2_compressed.pt'}", f"tokenizer={clip}", *heads],
        "pickscore": [f"checkpoint={clip}", f"tokenizer={clip}"],
        "clipscore": [f"checkpoint={clip}", f"tokenizer={clip}"],
        "aesthetic": [f"checkpoint={folder / 'aesthetic-model.pth'}", f"backbone={clip}"],
        "imagereward": [f"checkpoint={folder / 'ImageReward.pt'}", f"tokenizer={words}", *heads],
    }
    return {name: [f"model.checkpoints.{name}.{item}" for item in items] for name, items in given.items()}
