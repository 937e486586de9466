"""Rewards agree with PIL in preprocessing and with CLIPModel on the published layout, and every choice keeps laws."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from rdt.config.compose import conf_dir
from rdt.errors import Diverged
from rdt.rewards import clip
from rdt.rewards.base import MEAN, STD, Reward, check_images, crop, pad, preprocess
from rdt.rewards.open_clip import clip_model, to_open_clip, to_transformers
from rdt.shapes.pretrain import annotator, preference
from rdt.shapes.render import render
from rdt.shapes.tokenizer import LENGTH, build
from rdt.shapes.world import random_modes, random_scene
from rdt.training.experiment import Experiment
from rdt.training.launch import work
from worlds import reward_checkpoints
from worlds.scorers import serving
from worlds.smallest_run import minimal

PROMPTS = ["a red circle", "a small blue ring on white", "something else"]
HEADS = {"vision_heads": 3, "text_heads": 2}
LIMIT = "evaluation.limit={_target_:rdt.shapes.limit.Limit,points:3,seed:0}"  # left out of minimal runs
TASKS = ("geneval", "ocr")  # score what a prompt's row asks for: tests/rewards/test_geneval.py, test_ocr.py
CHOICES = [file.stem for file in sorted((Path(conf_dir()) / "reward").glob("*.yaml")) if file.stem not in TASKS]


def files(checkpoint: Path, tokenizer: Path, **others: int) -> dict[str, str | int]:
    """Return the weights of HPS as a config names them."""
    return {"checkpoint": str(checkpoint), "tokenizer": str(tokenizer), **HEADS, **others}


@pytest.fixture(scope="module")
def tokenizer():
    return build()


@pytest.fixture(scope="module")
def reference(tokenizer) -> CLIPModel:
    """Return a tiny CLIPModel in which no two sizes are equal and every norm and bias is random."""
    torch.manual_seed(0)
    special = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    sizes = dict(hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, hidden_act="gelu")
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=LENGTH) | sizes | special
    sizes = dict(hidden_size=24, intermediate_size=56, num_hidden_layers=2, num_attention_heads=3, hidden_act="gelu")
    vision = dict(image_size=20, patch_size=5) | sizes
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def reward(reference, tokenizer, tmp_path) -> Reward:
    """Write the reference in the published layout and read it as a run does."""
    published = {f"module.{key}": value for key, value in to_open_clip(reference.state_dict()).items()}
    published["module.attn_mask"] = torch.zeros(12, 12)
    torch.save({"state_dict": published}, tmp_path / "HPS_v2.1_compressed.pt")
    tokenizer.save_pretrained(tmp_path)
    return clip.hps(weights=files(tmp_path / "HPS_v2.1_compressed.pt", tmp_path))


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def cosine(model: CLIPModel, tokenizer, pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Return CLIPModel's own cosine, (B,), without any of our text or pooling code."""
    ids = tokenizer(prompts, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=preprocess(pictures, 20, pad))
    return (out.image_embeds * out.text_embeds).sum(-1)


def bytes_of(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())


# preprocessing


@pytest.mark.parametrize("fit", [crop, pad])
def test_an_image_of_the_right_size_is_only_normalised(fit):
    picture = images(2, 3, 20, 20)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(preprocess(picture, 20, fit), (picture - mean) / std)


@pytest.mark.parametrize("shape", [(64, 64), (50, 81), (90, 41), (13, 17)])
def test_crop_agrees_with_pil(shape):
    picture = F.interpolate(images(1, 3, 8, 8), shape, mode="bilinear")[0]
    picture = (picture * 255).round() / 255
    short = min(shape)
    height, width = int(32 * shape[0] / short), int(32 * shape[1] / short)
    resized = np.asarray(bytes_of(picture).resize((width, height), Image.Resampling.BICUBIC)) / 255
    top, left = round((height - 32) / 2), round((width - 32) / 2)
    expected = torch.from_numpy(resized[top : top + 32, left : left + 32]).permute(2, 0, 1)
    assert (crop(picture[None], 32)[0] - expected).abs().max() < 1.1 / 255


@pytest.mark.parametrize(("shape", "box"), [((40, 80), (8, 24, 0, 32)), ((80, 40), (0, 32, 8, 24))])
def test_pad_resizes_the_longest_side_and_adds_black_bars(shape, box):
    picture = (0.5 + 0.4 * F.interpolate(images(1, 3, 8, 8), shape, mode="bilinear") * 255).round() / 255
    padded = pad(picture, 32)
    top, bottom, left, right = box
    resized = bytes_of(picture[0]).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(resized) / 255).permute(2, 0, 1)
    assert (padded[0, :, top:bottom, left:right] - expected).abs().max() < 1.1 / 255
    padded[..., top:bottom, left:right] = 0
    assert padded.shape == (1, 3, 32, 32) and not padded.any()


def test_both_fits_agree_on_square_images():
    picture = 0.2 + 0.6 * images(2, 3, 16, 16)  # away from 0 and 1, where only crop clips
    assert torch.equal(crop(picture, 20), pad(picture, 20))


def test_half_precision_images_are_scored_in_single(reward):
    scores = reward(images(1, 3, 40, 40).bfloat16(), ["a red circle"])
    assert scores.dtype == torch.float32


# the published layout


def test_hps_scores_are_the_cosine_of_clip_model(reward, reference, tokenizer):
    pictures = images(3, 3, 33, 47)
    expected = cosine(reference, tokenizer, pictures, PROMPTS)
    assert expected.std() > 0.01
    assert torch.allclose(reward(pictures, PROMPTS), expected, atol=1e-6)


def test_the_mapping_is_a_bijection(reference):
    state = reference.state_dict()
    back = to_transformers(to_open_clip(state))
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_sizes_are_read_from_the_weights(reward, reference):
    assert {k: v.shape for k, v in reward.model.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    assert reward.model.config.vision_config.image_size == 20


def test_half_precision_files_score_nearly_the_same(reward, reference, tokenizer, tmp_path):
    half = {key: value.half() for key, value in to_open_clip(reference.state_dict()).items()}
    model = clip_model(half, 3, 2, tokenizer.eos_token_id).eval()
    assert model.dtype == torch.float32
    pictures = images(3, 3, 20, 20)
    assert torch.allclose(cosine(model, tokenizer, pictures, PROMPTS), reward(pictures, PROMPTS), atol=5e-3)


def test_the_order_of_queries_keys_and_values_matters(reward, reference, tokenizer):
    published = to_open_clip(reference.state_dict())
    for key in [key for key in published if "in_proj" in key]:
        published[key] = torch.cat(published[key].chunk(3)[::-1])
    model = clip_model(published, 3, 2, tokenizer.eos_token_id).eval()
    pictures = images(3, 3, 20, 20)
    assert (cosine(model, tokenizer, pictures, PROMPTS) - reward(pictures, PROMPTS)).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["visual.head.weight", "transformer.resblocks.0.attn.extra", "position_ids"])
def test_an_unknown_key_is_named(reference, key):
    published = to_open_clip(reference.state_dict()) | {key: torch.zeros(1)}
    with pytest.raises(ValueError, match=key):
        to_transformers(published)


@pytest.mark.parametrize("key", ["logit_scale", "visual.proj", "transformer.resblocks.1.attn.in_proj_bias"])
def test_a_missing_key_is_named(reference, key):
    published = to_open_clip(reference.state_dict())
    del published[key]
    with pytest.raises(ValueError, match=key):
        to_transformers(published)
    with pytest.raises(ValueError, match="has no key"):
        to_transformers({})


def test_head_counts_that_do_not_divide_are_refused(reference):
    with pytest.raises(ValueError, match="heads=5"):
        clip_model(to_open_clip(reference.state_dict()), 5, 2, 587)


def test_a_clip_folder_gives_clipscore_and_scaled_pickscore(reference, tokenizer, tmp_path):
    reference.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pictures = images(3, 3, 20, 20)
    expected = cosine(reference, tokenizer, pictures, PROMPTS)
    for scaled, factor in ((False, 1.0), (True, reference.logit_scale.exp().item())):
        built = clip.clipscore(weights={"checkpoint": str(tmp_path), "tokenizer": str(tmp_path)}, scaled=scaled)
        assert torch.allclose(built(pictures, PROMPTS), factor * expected, atol=1e-5)


@pytest.mark.parametrize("name", ["hps", "judge"])
def test_an_exported_preference_model_is_read_by_the_production_path(name, tokenizer, tmp_path):
    stage = preference.STAGES[name]
    torch.manual_seed(0)
    model = preference.untrained(stage).eval()
    preference.export(model, tmp_path / "x.safetensors")
    tokenizer.save_pretrained(tmp_path)
    heads = {"vision_heads": stage.vision["num_attention_heads"], "text_heads": stage.text["num_attention_heads"]}
    built = clip.hps(weights=files(tmp_path / "x.safetensors", tmp_path, **heads))
    batch = annotator.comparisons(annotator.TokenisedPrompts(), 0, torch.Generator().manual_seed(0))
    prompts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch.ids]
    with torch.no_grad():
        expected = preference.score(model, batch.images, batch.ids).diagonal()
    assert torch.allclose(built(batch.images[: len(prompts)], prompts), expected, atol=2e-3)


@pytest.mark.parametrize(("name", "attainable"), [("hps", 0.78), ("judge", 0.74)])
def test_the_annotator_is_as_noisy_as_designed(name, attainable):
    words, generator = annotator.TokenisedPrompts(), torch.Generator().manual_seed(0)
    batches = [annotator.comparisons(words, 0, generator) for _ in range(20)]
    margins = torch.cat([annotator.own_pairs(annotator.differences(batch.utilities)) for batch in batches])
    right = annotator.choice_probability(margins, preference.STAGES[name].temperature)
    assert torch.maximum(right, 1 - right).mean().item() == pytest.approx(attainable, abs=0.02)


# the score as a function


@pytest.mark.parametrize("shape", [(20, 20), (26, 18)])
def test_the_gradient_is_that_of_finite_differences(reward, shape):
    picture = (0.3 + 0.4 * images(1, 3, *shape)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(picture, PROMPTS[:1]).sum(), picture)
    step = 0.004 * gradient / gradient.norm()  # along the gradient, where the slope is its norm
    with torch.no_grad():
        rise = reward(picture + step, PROMPTS[:1]) - reward(picture - step, PROMPTS[:1])
    assert gradient.norm() > 0.01
    assert rise.item() / 0.008 == pytest.approx(gradient.norm().item(), rel=0.01)


def test_only_pixels_receive_gradient(reward):
    picture = images(2, 3, 20, 20).requires_grad_()
    reward(picture, PROMPTS[:2]).sum().backward()
    assert picture.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in reward.parameters())


def test_scores_do_not_depend_on_batch_or_order(reward):
    pictures = images(3, 3, 30, 30)
    together = reward(pictures, PROMPTS)
    backwards = reward(pictures.flip(0), PROMPTS[::-1]).flip(0)
    alone = torch.cat([reward(pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, backwards, atol=1e-6) and torch.allclose(together, alone, atol=1e-6)


def test_the_cache_changes_nothing_and_is_bounded(reward, monkeypatch):
    pictures = images(4, 3, 20, 20)
    prompts = [*PROMPTS, PROMPTS[0]]
    fresh = reward(pictures, prompts)
    assert torch.equal(reward(pictures, prompts), fresh) and len(reward._cache) == 3
    monkeypatch.setattr(clip, "CACHE", 4)
    reward(pictures, ["one", "two", "three", "four"])
    assert len(reward._cache) == 4
    assert torch.allclose(reward(pictures, prompts), fresh, atol=1e-6)


def test_text_is_pooled_at_the_first_end_of_text_whatever_its_id(reward, tokenizer, reference):
    pictures = images(1, 3, 20, 20)
    expected = reward(pictures, ["a ring"])
    reward._cache.clear()
    reward.model.text_model.eos_token_id = 2  # with this id transformers pools at the largest id
    assert torch.equal(reward(pictures, ["a ring"]), expected)


def test_hps_text_is_cleaned_as_open_clip_does(reward):
    assert clip.open_clip_text("  a &amp;amp; b\u2019s sch\u00c3\u00b6n ") == "a & b's sch\u00f6n"
    pictures = images(1, 3, 20, 20)
    assert torch.equal(reward(pictures, ["a &lt;ring&gt;"]), reward(pictures, ["a <ring>"]))


def test_a_reward_stays_frozen_inside_a_training_module(reward):
    owner = torch.nn.Sequential(reward).train()
    assert owner.training and not any(module.training for module in reward.modules())


# every choice of conf/reward


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Iterator[dict[str, list[str]]]:
    """Yield, by reward, the overrides that the embedded model needs; the remote reward is the bundled one, served."""
    folder = tmp_path_factory.mktemp("published")
    with serving(Experiment(minimal(folder / "never")).reward) as url:
        yield reward_checkpoints.write(folder) | {"remote": [f"reward.url={url}"]}


@pytest.fixture(scope="module", params=CHOICES)
def chosen(request, given, tmp_path_factory) -> Reward:
    """Build the reward as a run does."""
    cfg = minimal(tmp_path_factory.mktemp("never") / "out", f"reward={request.param}", *given.get(request.param, []))
    return Experiment(cfg).reward.requires_grad_(False)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return render(random_scene(random_modes(4, generator), generator))


WORDS = ["a red circle", "a small blue ring on white", "a shape", "a large cross"]


def test_a_choice_scores_images_one_by_one(chosen, pictures):
    scores = chosen(pictures, WORDS)
    assert scores.shape == (4,) and scores.dtype == torch.float32 and scores.isfinite().all() and scores.std() > 0
    assert torch.equal(scores, chosen(pictures, WORDS))
    alone = torch.cat([chosen(pictures[i : i + 1], WORDS[i : i + 1]) for i in range(4)])
    assert torch.allclose(scores, alone, atol=1e-6)
    assert torch.allclose(scores, chosen(pictures.flip(0), WORDS[::-1]).flip(0), atol=1e-6)


def test_differentiable_tells_whether_a_choice_has_a_gradient(chosen, pictures):
    wanted = pictures.clone().requires_grad_()
    scores = chosen(wanted, WORDS)
    assert scores.requires_grad == chosen.differentiable
    if chosen.differentiable:
        (gradient,) = torch.autograd.grad(scores.sum(), wanted)
        assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    assert not any(parameter.requires_grad for parameter in chosen.parameters())


def test_a_choice_is_the_total_of_its_parts(chosen, pictures):
    parts = chosen.parts(pictures, WORDS)
    assert parts.shape == (4, max(len(chosen.components), 1))
    assert torch.equal(chosen.total(parts), chosen(pictures, WORDS))
    for column, (name, component) in enumerate(chosen.components.items()):
        assert torch.equal(parts[:, column], component(pictures, WORDS)), name


def test_reads_prompts_tells_whether_the_prompt_changes_a_score(chosen, pictures):
    same = torch.allclose(chosen(pictures, WORDS), chosen(pictures, WORDS[1:] + WORDS[:1]), atol=1e-6)
    assert same != chosen.reads_prompts


def test_a_choice_refuses_bad_input(chosen, pictures):
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        chosen(2 * pictures - 1, WORDS)
    with pytest.raises(ValueError, match="expected float"):
        chosen((255 * pictures).byte(), WORDS)
    with pytest.raises(ValueError, match="prompts=1 for images=4"):
        chosen(pictures, WORDS[:1])


def test_a_choice_does_not_hide_an_image_that_is_not_finite(chosen, pictures):
    broken = pictures.clone()
    broken[2, 1, 3, 4] = torch.nan
    try:
        scores = chosen(broken, WORDS)
    except Diverged:
        return
    assert scores.isfinite().tolist() == [True, True, False, True]


ONE_EACH = ("pickscore", "mixture", "remote")  # one tower, one sum, one server; every method runs with hps elsewhere
RUNS = {
    "jpeg": ["method=sqdf", LIMIT],
    "gold": ["method=grpo", "method.group=2", LIMIT],
    "remote": ["method=grpo", "method.group=2"],
    **{
        name: ["method=sqdf", "guidance=aig"]
        for name in ("hps_v2", "pickscore", "clipscore", "aesthetic", "imagereward")
    },
    "mixture": ["method=sqdf"],
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ONE_EACH)) for n in CHOICES])
def test_a_run_on_a_choice_writes_its_result(name, given, tmp_path):
    """The optimised reward, its parts and the judges are each reported once."""
    work(minimal(tmp_path / "out", f"reward={name}", "logger=csv", *RUNS.get(name, []), *given.get(name, [])))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    parts = ["hps", "jpeg"] if name == "mixture" else []
    for point in (result["base"], *result["points"]):
        assert list(point["reward"]) == list(dict.fromkeys([name, *parts, "gold", "judge"]))
        assert all(np.isfinite(reward["mean"]) for reward in point["reward"].values())
    limit = result["limit"] or {"proxy_frontier": []}
    assert len(limit["proxy_frontier"]) == (3 if name == "jpeg" else 0)
    assert all({name, "gold", "entropy"} <= row.keys() for row in limit["proxy_frontier"])


# bad input


@pytest.mark.parametrize("picture", [torch.full((1, 3, 8, 8), 1.1), torch.full((1, 3, 8, 8), -0.5)])
def test_images_out_of_range_are_refused(reward, picture):
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        reward(picture, ["a ring"])


@pytest.mark.parametrize("picture", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_images_of_the_wrong_type_or_shape_are_refused(picture):
    with pytest.raises(ValueError, match="expected float"):
        check_images(picture)


def test_rounding_beyond_the_range_is_tolerated():
    check_images(torch.tensor([-5e-4, 1 + 5e-4]).view(1, 1, 1, 2).expand(1, 3, 1, 2))


def test_one_prompt_per_image_is_needed(reward):
    with pytest.raises(ValueError, match="prompts=1 for images=2"):
        reward(images(2, 3, 8, 8), ["a ring"])


def test_a_missing_file_is_one_line(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nosuch\.pt") as caught:
        clip.hps(weights=files(tmp_path / "nosuch.pt", tmp_path))
    assert "\n" not in str(caught.value)
