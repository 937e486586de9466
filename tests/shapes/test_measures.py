"""Measures and the gold reward agree with an oracle of random weights that is read from a file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdt.shapes import world
from rdt.shapes.distribution import sampled_entropy
from rdt.shapes.gold import GoldReward, naturalness
from rdt.shapes.grammar import stated
from rdt.shapes.measures import Fidelity, FreeEntropy, OracleEmbedder
from rdt.shapes.oracle import Oracle, shared_oracle
from rdt.shapes.proxy import Separable
from rdt.shapes.render import render
from rdt.weights import MissingCheckpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """Return the path of an oracle with random weights in half precision."""
    torch.manual_seed(0)
    oracle = Oracle()
    with torch.no_grad():
        for head in oracle.heads:
            head.weight.mul_(20)  # so that random weights read more than one value
    path = tmp_path_factory.mktemp("weights") / "oracle.safetensors"
    save_file({key: value.half() for key, value in oracle.state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return render(world.random_scene(world.random_modes(12, generator), generator))


def test_the_oracle_is_loaded_once_and_frozen(source):
    oracle = shared_oracle(source)
    assert oracle is shared_oracle(source)
    assert not oracle.training and not any(p.requires_grad for p in oracle.parameters())
    assert all(p.dtype == torch.float32 for p in oracle.parameters())


def test_an_image_is_read_once(source, images, monkeypatch):
    oracle = Oracle.load(Path(source))
    first, rows = oracle.read(images), []
    monkeypatch.setattr(oracle, "_read", lambda new: rows.append(len(new)) or Oracle._read(oracle, new))
    again = oracle.read(images.flip(0))
    assert not rows and again.finish.equal(first.finish.flip(0)) and again.modes.equal(first.modes.flip(0))
    brighter = torch.cat([images[:3], (images[3:5] + 0.1).clamp(0, 1)])
    assert oracle.read(brighter).residual[:3].equal(first.residual[:3]) and rows == [2]


def test_free_entropy_is_the_entropy_of_the_modes_read(source, images):
    read = shared_oracle(source).read(images).modes
    measured = FreeEntropy(oracle=source)(images, "a red circle")
    assert measured == {"entropy": pytest.approx(sampled_entropy(read[None], stated(["a red circle"])).item())}
    assert 0 < measured["entropy"] <= 1


def test_entropy_of_identical_images_is_zero(source, images):
    assert FreeEntropy(oracle=source)(images[:1].expand(9, -1, -1, -1), "a shape") == {"entropy": 0.0}


def test_entropy_does_not_depend_on_order(source, images):
    measure = FreeEntropy(oracle=source)
    assert measure(images, "a circle") == pytest.approx(measure(images.flip(0), "a circle"))


def test_fidelity_is_what_the_oracle_reads(source, images):
    read = shared_oracle(source).read(images)
    measured = Fidelity(oracle=source)(images, "a red circle")
    right = (read.modes[:, :2] == 0).float().mean().item()
    expected = {"residual": read.residual.mean().item(), "quality": world.quality(read.finish).mean().item()}
    assert measured == pytest.approx(expected | {"match": right})
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    assert Fidelity(oracle=source)(noise, "a circle")["residual"] > 0.2


def test_the_embedder_gives_one_feature_vector_per_image(source, images):
    features = OracleEmbedder(oracle=source)(images)
    assert features.shape == (12, 64) and not features.requires_grad
    assert torch.allclose(features[3:5], OracleEmbedder(oracle=source)(images[3:5]), atol=1e-5)


def test_measures_leave_no_gradient(source, images):
    inputs = images.clone().requires_grad_()
    assert not OracleEmbedder(oracle=source)(inputs).requires_grad
    assert not GoldReward(oracle=source)(inputs, ["a circle"] * 12).requires_grad


def test_gold_is_the_utility_of_what_is_read_less_what_is_unnatural(source, images):
    reward, prompts = GoldReward(oracle=source), ["a circle", "a small blue ring", "a shape on white"] * 4
    read = shared_oracle(source).read(images)
    expected = naturalness(read.residual) * world.utility(read.modes, read.finish, stated(prompts))
    assert torch.allclose(reward(images, prompts), expected)
    assert not reward.differentiable and reward(images, prompts).shape == (12,)


def test_a_render_keeps_its_utility_and_what_no_render_explains_costs_some():
    kept = naturalness(torch.tensor([0.0, 0.01, 0.02, 0.05, 0.2]))
    assert (kept[:3] == 1).all() and (kept[2:].diff() < 0).all() and kept[-1] < 0.2


def test_gold_is_an_inner_product_of_its_features(source, images):
    reward, prompts = GoldReward(oracle=source), ["a circle", "a small blue ring", "a shape"] * 4
    assert isinstance(reward, Separable)
    product = (reward.image_features(images) * reward.text_features(prompts)).sum(1)
    assert torch.allclose(product.float(), reward(images, prompts), atol=1e-6)


def test_gold_refuses_prompts_outside_the_grammar(source, images):
    with pytest.raises(ValueError, match="'horse'"):
        GoldReward(oracle=source)(images[:1], ["a red horse"])
    with pytest.raises(ValueError, match="'horse'"):
        FreeEntropy(oracle=source)(images, "a horse")
    with pytest.raises(ValueError, match="'horse'"):
        Fidelity(oracle=source)(images, "a horse")


@pytest.mark.parametrize("kind", [FreeEntropy, Fidelity, OracleEmbedder, GoldReward])
def test_a_missing_oracle_is_reported_at_once(kind, tmp_path):
    with pytest.raises(MissingCheckpoint, match=r"oracle\.safetensors"):
        kind(oracle=str(tmp_path / "oracle.safetensors"))


def test_a_corrupt_oracle_is_reported(tmp_path):
    path = tmp_path / "oracle.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"oracle\.safetensors"):
        FreeEntropy(oracle=str(path))
