"""Tests published rewards: tiny checkpoints against their authors' arithmetic, full-size ones by key and shape."""

import hashlib
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from rdt.rewards import heads
from rdt.rewards.aesthetic import aesthetic
from rdt.rewards.base import crop, pad, preprocess
from rdt.rewards.clip import clipscore, hps
from rdt.rewards.imagereward import blip, imagereward
from rdt.rewards.open_clip import clip_model
from rdt.shapes.tokenizer import LENGTH, build
from rdt.weights import MissingCheckpoint
from worlds import reward_checkpoints
from worlds.reward_checkpoints import HEADS, JOINT, SIZE, Blip, BlipSizes, ClipSizes, OpenClip

PROMPTS = ["a red circle", "a small blue ring on white", "a shape"]
PLAIN = {"interpolation": "bicubic", "checkpointing": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    reward_checkpoints.write(folder)
    return folder


def towers(checkpoint, tokenizer, **others):
    """Return the weights of HPS or ImageReward."""
    return {"checkpoint": str(checkpoint), "tokenizer": str(tokenizer), **HEADS, **others}


def folder(checkpoint, tokenizer=None, **others):
    """Return the weights of PickScore or CLIPScore; the folder holds its tokenizer too unless another is given."""
    return {"checkpoint": str(checkpoint), "tokenizer": str(tokenizer or checkpoint), **others}


def head_on(backbone, checkpoint, **others):
    """Return the weights of the aesthetic score."""
    return {"checkpoint": str(checkpoint), "backbone": str(backbone), **others}


@pytest.fixture(scope="module")
def made(files):
    """Build each reward as a run does; HPS from a file in single precision, for an exact comparison."""
    clip = str(files / "clip")
    torch.save({"state_dict": reward_checkpoints.random(reward_checkpoints.open_clip())}, files / "hps.pt")
    return {
        "hps": hps(weights=towers(files / "hps.pt", clip)),
        "pickscore": clipscore(weights=folder(clip), scaled=True),
        "clipscore": clipscore(weights=folder(clip), scaled=False),
        "aesthetic": aesthetic(weights=head_on(clip, files / "aesthetic-model.pth"), **PLAIN),
        "imagereward": imagereward(weights=towers(files / "ImageReward.pt", files / "words"), **PLAIN),
    }


NAMES = ["hps", "pickscore", "clipscore", "aesthetic", "imagereward"]


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def clip_ids(prompts):
    return build()(prompts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids


def bert_ids(files, prompts):
    padded = reward_checkpoints.bert(files / "words")(prompts, padding="max_length", max_length=35, return_tensors="pt")
    return padded.input_ids, padded.attention_mask


def swapped(tensors):
    """Reverse the order of queries, keys and values."""
    return {k: torch.cat(v.chunk(3)[::-1]) if "in_proj" in k or "qkv" in k else v for k, v in tensors.items()}


# compared with the authors' arithmetic


def test_hps_is_the_cosine_of_open_clip(made):
    tensors, pictures = reward_checkpoints.random(reward_checkpoints.open_clip()), images(3, 3, 33, 47)
    text, pixels = (clip_ids(PROMPTS), build().eos_token_id), preprocess(pictures, SIZE, pad)
    scores, expected = made["hps"](pictures, PROMPTS), OpenClip(tensors).cosine(pixels, *text)
    assert expected.std() > 0.01
    assert (scores - expected).abs().max() < 1e-6
    wrong = {
        "activation": OpenClip(tensors, activation=lambda x: x * torch.sigmoid(1.702 * x)).cosine(pixels, *text),
        "eps": OpenClip(tensors, eps=1e-6).cosine(pixels, *text),
        "order": OpenClip(swapped(tensors)).cosine(pixels, *text),
        "fit": OpenClip(tensors).cosine(preprocess(pictures, SIZE, crop), *text),
    }
    assert {name: (scores - other).abs().max() > 1e-4 for name, other in wrong.items()} == dict.fromkeys(wrong, True)


@pytest.mark.parametrize("key", ["visual.proj", "text_projection"])
def test_a_missing_transpose_does_not_fit(key):
    tensors = reward_checkpoints.random(reward_checkpoints.open_clip())
    with pytest.raises((ValueError, RuntimeError)):
        clip_model(tensors | {key: tensors[key].T.contiguous()}, 3, 2, 587)


def test_imagereward_is_the_score_of_its_authors(made, files):
    tensors, pictures = reward_checkpoints.random(reward_checkpoints.imagereward()), images(3, 3, 33, 47)
    pixels, words = preprocess(pictures, SIZE, crop), bert_ids(files, PROMPTS)
    scores, expected = made["imagereward"](pictures, PROMPTS), Blip(tensors).score(pixels, *words)
    assert expected.std() > 0.01
    assert (scores - expected).abs().max() < 1e-5
    wrong = {
        "activation": Blip(tensors, activation=F.relu).score(pixels, *words),
        "eps": Blip(tensors, eps=1e-5).score(pixels, *words),
        "causal": Blip(tensors, causal=True).score(pixels, *words),
        "mask": Blip(tensors).score(pixels, words[0], torch.ones_like(words[1])),
        "order": Blip(swapped(tensors)).score(pixels, *words),
    }
    assert {name: (scores - other).abs().max() > 1e-4 for name, other in wrong.items()} == dict.fromkeys(wrong, True)


def test_pickscore_and_clipscore_agree_with_clip_model(made, files):
    model, pictures = CLIPModel.from_pretrained(files / "clip"), images(3, 3, 33, 47)
    with torch.no_grad():
        output = model(input_ids=clip_ids(PROMPTS), pixel_values=preprocess(pictures, SIZE, crop))
    assert (made["pickscore"](pictures, PROMPTS) - output.logits_per_image.diagonal()).abs().max() < 1e-4
    cosine = (output.image_embeds * output.text_embeds).sum(-1)
    assert (made["clipscore"](pictures, PROMPTS) - cosine).abs().max() < 1e-6
    assert model.logit_scale.exp() > 5  # so that the two scores differ


def test_aesthetic_is_the_head_on_the_unit_embedding(made, files):
    model, pictures = CLIPModel.from_pretrained(files / "clip"), images(3, 3, 33, 47)
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=preprocess(pictures, SIZE, crop)).pooler_output
    tensors = reward_checkpoints.random(reward_checkpoints.affine(JOINT))
    scores = made["aesthetic"](pictures, PROMPTS)
    assert (scores - reward_checkpoints.through(tensors, F.normalize(seen))).abs().max() < 1e-5
    assert (scores - reward_checkpoints.through(tensors, seen)).abs().max() > 1e-2
    assert torch.equal(scores, made["aesthetic"](pictures, ["anything"] * 3))


def test_open_clip_itself_agrees(made, files):
    open_clip = pytest.importorskip("open_clip")
    tower = {"image_size": SIZE, "patch_size": 5, "layers": 2, "width": 24, "head_width": 8, "mlp_ratio": 56 / 24}
    text = {
        "context_length": LENGTH,
        "vocab_size": len(build()),
        "width": 16,
        "heads": 2,
        "layers": 3,
        "mlp_ratio": 2.5,
    }
    theirs = open_clip.CLIP(embed_dim=JOINT, vision_cfg=tower, text_cfg=text).eval()
    theirs.load_state_dict(reward_checkpoints.random(reward_checkpoints.open_clip()), strict=False)
    pictures = images(3, 3, SIZE, SIZE)
    with torch.no_grad():
        seen = theirs.encode_image(preprocess(pictures, SIZE, pad), normalize=True)
        read = theirs.encode_text(clip_ids(PROMPTS), normalize=True)
    assert (made["hps"](pictures, PROMPTS) - (seen * read).sum(-1)).abs().max() < 1e-6


# the scores as functions of the pixels


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(made, name):
    picture = (0.3 + 0.4 * images(1, 3, 26, 18)).requires_grad_()
    (gradient,) = torch.autograd.grad(made[name](picture, PROMPTS[:1]).sum(), picture)
    step = 0.004 * gradient / gradient.norm()  # along the gradient, where the slope is its norm
    with torch.no_grad():
        rise = made[name](picture + step, PROMPTS[:1]) - made[name](picture - step, PROMPTS[:1])
    assert gradient.norm() > 0.01
    assert rise.item() / 0.008 == pytest.approx(gradient.norm().item(), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_batch_or_order(made, name):
    pictures, tolerance = images(3, 3, 30, 30), 1e-5
    together = made[name](pictures, PROMPTS)
    alone = torch.cat([made[name](pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, made[name](pictures.flip(0), PROMPTS[::-1]).flip(0), atol=tolerance)
    assert torch.allclose(together, alone, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_only_pixels_in_range_are_scored_and_only_pixels_get_gradient(made, name):
    picture = images(2, 3, 20, 20).requires_grad_()
    made[name](picture, PROMPTS[:2]).sum().backward()
    assert picture.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in made[name].parameters())
    assert not any(module.training for module in torch.nn.Sequential(made[name]).train()[0].modules())
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        made[name](255 * picture, PROMPTS[:2])


def test_checkpointing_saves_memory_and_changes_neither_score_nor_gradient(made, files):
    clip, pictures = str(files / "clip"), images(2, 3, 20, 20).requires_grad_()
    saving = PLAIN | {"checkpointing": True}
    recomputed = {
        "hps": hps(weights=towers(files / "hps.pt", clip), **saving),
        "clipscore": clipscore(weights=folder(clip), scaled=False, **saving),
        "aesthetic": aesthetic(weights=head_on(clip, files / "aesthetic-model.pth"), **saving),
        "imagereward": imagereward(weights=towers(files / "ImageReward.pt", files / "words"), **saving),
    }
    for name, reward in recomputed.items():
        kept = []
        for r in (made[name], reward):
            count = 0

            def seen(tensor):
                nonlocal count
                count += tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
                scores = r(pictures, PROMPTS[:2])
            kept.append((scores, *torch.autograd.grad(scores.sum(), pictures), count))
        (plain, gradient, much), (same, also, little) = kept
        assert torch.equal(plain, same) and torch.equal(gradient, also), name
        assert little < 0.7 * much, (name, little, much)


def test_interpolation_follows_the_config(files):
    clip, pictures = str(files / "clip"), images(2, 3, 64, 64)
    head = head_on(clip, files / "aesthetic-model.pth")
    bilinear = aesthetic(weights=head, interpolation="bilinear", checkpointing=False)
    resized = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
    assert torch.allclose(bilinear(pictures, PROMPTS[:2]), bilinear(resized, PROMPTS[:2]), atol=1e-6)


# full size, on the meta device: keys and shapes without memory

H_VISION = {"width": 1280, "inner": 5120, "layers": 32, "heads": 16}
H_TEXT = {"width": 1024, "inner": 4096, "layers": 24, "heads": 16}
L_VISION = {"width": 1024, "inner": 4096, "layers": 24, "heads": 16}
BERT = {"width": 768, "inner": 3072, "layers": 12, "heads": 12}


def meta(shapes):
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def test_hps_at_full_size_has_the_published_keys_and_shapes():
    shapes = reward_checkpoints.open_clip(ClipSizes(H_VISION, H_TEXT, 224, 14, 1024, 49408, 77))
    assert len(shapes) == 686 and sum(torch.Size(shape).numel() for shape in shapes.values()) == 986_109_441
    model = clip_model(meta(shapes), 16, 16, 49407)
    assert len(model.state_dict()) == 910
    pickscore = CLIPConfig(
        projection_dim=1024,
        vision_config=dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
                           patch_size=14, image_size=224, hidden_act="gelu"),
        text_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                         vocab_size=49408, max_position_embeddings=77, hidden_act="gelu"),
    )  # fmt: skip
    with torch.device("meta"):
        stock = CLIPModel(pickscore)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in stock.state_dict().items()}
    for part in ("vision_config", "text_config"):
        ours, theirs = getattr(model.config, part), getattr(pickscore, part)
        for key in ("hidden_act", "layer_norm_eps", "num_attention_heads"):
            assert getattr(ours, key) == getattr(theirs, key), key


def test_imagereward_at_full_size_has_the_published_keys_and_shapes():
    head = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}
    shapes = reward_checkpoints.imagereward(BlipSizes(L_VISION, BERT, 224, 16, 30524, 512, head))
    vision, text, layers = blip(meta(shapes), 16, 12)
    assert (vision.config.image_size, vision.config.patch_size, vision.config.num_hidden_layers) == (224, 16, 24)
    assert (vision.config.layer_norm_eps, text.config.layer_norm_eps) == (1e-6, 1e-12)
    assert text.config.encoder_hidden_size == 1024 and text.config.num_attention_heads == 12
    assert layers["layers.0.weight"].shape == (1024, 768)
    counted = sum(p.numel() for tower in (vision, text) for p in tower.parameters())
    assert 4 * (counted + sum(value.numel() for value in layers.values())) == pytest.approx(1.79e9, rel=0.01)


def test_aesthetic_at_full_size_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig(
            projection_dim=768,
            vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                               patch_size=14, image_size=224),
            text_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
        ))  # fmt: skip
    head = heads.affine_head(meta(reward_checkpoints.affine(768, {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1})))
    assert [tuple(layer.weight.shape) for layer in head if hasattr(layer, "weight")] == [
        (1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)
    ]  # fmt: skip
    assert clip.visual_projection.weight.shape == (768, 1024) and clip.config.vision_config.hidden_act == "quick_gelu"
    assert sum(p.numel() for p in clip.parameters()) == 427_616_513  # openai/clip-vit-large-patch14


# wrong files: one clear line each


def refused(call, *words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_pinned_digest_is_enforced(files):
    clip, head = str(files / "clip"), files / "aesthetic-model.pth"
    digest = hashlib.sha256(head.read_bytes()).hexdigest()
    assert aesthetic(weights=head_on(clip, head, sha256=digest.upper()), **PLAIN)
    weights = hashlib.sha256((files / "clip" / "model.safetensors").read_bytes()).hexdigest()
    assert clipscore(weights=folder(clip, sha256=weights), scaled=True)
    for call in (
        lambda: aesthetic(weights=head_on(clip, head, sha256=weights), **PLAIN),
        lambda: clipscore(weights=folder(clip, sha256=digest), scaled=True),
        lambda: hps(weights=towers(files / "hps.pt", clip, sha256=digest)),
        lambda: imagereward(weights=towers(files / "ImageReward.pt", clip, sha256=digest), **PLAIN),
    ):
        refused(call, "sha256=", "pins", "another file")
    refused(lambda: clipscore(weights=folder(clip, sha256="21dd590f"), scaled=True), "64 hexadecimal")


def test_code_in_a_pickle_is_not_run(files, tmp_path):
    target, clip = tmp_path / "executed", str(files / "clip")
    for name in ("head.pth", "folder/pytorch_model.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pickle.dumps({"layers.0.weight": Bomb(target)}))
    (tmp_path / "folder" / "config.json").write_bytes((files / "clip" / "config.json").read_bytes())
    head, model = str(tmp_path / "head.pth"), str(tmp_path / "folder")
    refused(lambda: aesthetic(weights=head_on(clip, head), **PLAIN), "head.pth")
    refused(lambda: clipscore(weights=folder(model, clip), scaled=True), model)
    assert not target.exists()


def test_half_a_file_and_a_file_of_another_reward_are_one_line(files, tmp_path):
    clip, model = str(files / "clip"), tmp_path / "half"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((files / "clip" / name).read_bytes())
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(lambda: clipscore(weights=folder(model, clip), scaled=True), str(model))
    half = tmp_path / "half.pt"
    half.write_bytes((files / "ImageReward.pt").read_bytes()[:5000])

    def read(file):
        return imagereward(weights=towers(file, files / "words"), **PLAIN)

    refused(lambda: read(half), "half.pt")
    refused(lambda: read(files / "hps.pt"), "ImageReward")
    refused(lambda: read(files / "aesthetic-model.pth"), "unknown key")
    refused(lambda: hps(weights=towers(files / "ImageReward.pt", clip)), "unknown key")
    refused(lambda: aesthetic(weights=head_on(clip, files / "hps.pt"), **PLAIN), "head")
    refused(lambda: clipscore(weights=folder(files / "hps.pt", clip), scaled=True), "CLIPModel")
    refused(lambda: clipscore(weights=folder(files / "words", clip), scaled=True), "CLIPModel")


def test_missing_weights_are_not_filled_with_random_numbers(files, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(files / "clip" / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((files / "clip" / "config.json").read_bytes())
    weights = folder(tmp_path, files / "clip")
    refused(lambda: clipscore(weights=weights, scaled=True), "visual_projection.weight", "1 missing")
    wider = json.loads((tmp_path / "config.json").read_text())
    wider["vision_config"]["intermediate_size"] = 57
    (tmp_path / "config.json").write_text(json.dumps(wider))
    refused(lambda: clipscore(weights=weights, scaled=True), "CLIPModel")


def test_a_head_of_another_width_and_a_missing_tokenizer_are_named(files, tmp_path):
    clip = str(files / "clip")
    torch.save(reward_checkpoints.random(reward_checkpoints.affine(JOINT + 1)), tmp_path / "wide.pth")
    wide = head_on(clip, tmp_path / "wide.pth")
    refused(lambda: aesthetic(weights=wide, **PLAIN), "reads 13", "CLIP gives 12")
    refused(lambda: clipscore(weights=folder(clip, tmp_path), scaled=True), "tokenizer files")
    with pytest.raises(MissingCheckpoint, match="nosuch"):
        aesthetic(weights=head_on(clip, tmp_path / "nosuch.pth"), **PLAIN)


def test_weights_without_a_needed_field_are_named(files):
    with pytest.raises(TypeError, match="vision_heads"):
        hps(weights=folder(files / "clip"))
