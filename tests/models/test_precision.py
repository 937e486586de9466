"""Half precision, memory formats and slicing change how a model runs, not its output."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rdt.config.rules import parsed_rule
from rdt.policy import Adapter, Policy
from worlds import model_checkpoints, tiny_policy
from worlds.builders import built
from worlds.smallest_run import minimal

ADAPTER = Adapter(2, 2, ["to_q", "to_k", "to_v", "to_out.0"])
PROMPTS = ["a circle", "two rings"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in model_checkpoints.MAKERS.items()}


def build(name: str, folder: Path, checkpointing: bool = False, trained: bool = True, **setup: Any) -> Policy:
    exact = {"guidance": 4.0} if name == "flux" else {}  # in thousands bf16 holds 4, but not 3.5
    policy = built(name, folder, ADAPTER, setup, checkpointing=checkpointing, **exact)
    if trained:
        tiny_policy.disturb(policy)
    return policy


def run(policy: Policy, view: str) -> Tensor:
    """Return a view's output at a time that bf16 holds exactly in thousands: FLUX rounds it, in diffusers too."""
    t = policy.process.times(4)[0] * 3 // 4 if policy.process.prediction == "epsilon" else torch.tensor(0.5)
    return getattr(policy, view)(tiny_policy.normal(2, *policy.latent_shape), t, policy.encode(PROMPTS))


def gradients(policy: Policy) -> list[Tensor]:
    policy.zero_grad()
    (run(policy, "tuned").float() - run(policy, "base").detach().float()).square().mean().backward()
    return [weight.grad for weight in policy.parameters() if weight.requires_grad]


@pytest.mark.parametrize("name", model_checkpoints.MAKERS)
def test_half_precision_is_near_full_and_trains_the_adapter_in_full(name: str, folders: dict[str, Path]) -> None:
    full, half = build(name, folders[name]), build(name, folders[name], precision="bf16")
    for parameter in half.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    for view in ("base", "tuned"):
        expected, found = run(full, view), run(half, view).float()
        assert (found - expected).norm() < 0.03 * expected.norm()
    difference = run(full, "tuned") - run(full, "base")
    assert difference.norm() > 0.03 * run(full, "base").norm()
    x0 = tiny_policy.normal(2, *full.latent_shape)
    assert half.decode(x0).dtype == torch.float32
    torch.testing.assert_close(half.decode(x0), full.decode(x0), rtol=0, atol=0.03)
    found, expected = (torch.cat([g.flatten() for g in gradients(policy)]) for policy in (half, full))
    assert found.dtype == torch.float32 and torch.cosine_similarity(found, expected, dim=0) > 0.98


@pytest.mark.parametrize("name", model_checkpoints.MAKERS)
def test_in_half_precision_a_fresh_tuned_view_is_the_base_and_blocks_checkpoint(
    name: str, folders: dict[str, Path]
) -> None:
    fresh = build(name, folders[name], trained=False, precision="bf16")
    assert run(fresh, "tuned").equal(run(fresh, "base"))
    plain, checkpointed = (build(name, folders[name], checkpointing=c, precision="bf16") for c in (False, True))
    for ours, theirs in zip(gradients(checkpointed), gradients(plain), strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_channels_last_changes_only_the_memory_format(name: str, folders: dict[str, Path]) -> None:
    plain, last = build(name, folders[name]), build(name, folders[name], channels_last=True)
    assert last.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(run(last, "tuned"), run(plain, "tuned"), rtol=1e-4, atol=1e-5)


def test_slicing_changes_neither_images_nor_gradients(folders: dict[str, Path]) -> None:
    found = []
    for slicing in (False, True):
        policy, x0 = build("sd3", folders["sd3"], slicing=slicing), tiny_policy.normal(3, 16, 8, 8).requires_grad_()
        images = policy.decode(x0)
        images.square().sum().backward()
        found.append((images.detach(), x0.grad))
    for whole, sliced in zip(*found, strict=True):
        torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_compiled_network_has_the_same_views_and_gradients(
    name: str, checkpointing: bool, folders: dict[str, Path]
) -> None:
    plain, compiled = build(name, folders[name]), build(name, folders[name], checkpointing, compile=True)
    for view in ("base", "tuned", "base"):
        torch.testing.assert_close(run(compiled, view), run(plain, view), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients(compiled), gradients(plain), strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()
    assert compiled.flops_per_pass == plain.flops_per_pass


@pytest.mark.parametrize("model", ["shapes", "shapes_flow"])
def test_precision_has_an_effect_on_the_embedded_models(model: str, tmp_path: Path) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        cfg = minimal(tmp_path / precision, f"model={model}", f"precision={precision}")
        policy = instantiate(cfg.model.policy, _partial_=True)(adapter=Adapter(**cfg.model.lora))
        found.append(run(policy, "base").float())
    full, half = found
    assert 0 < (half - full).norm() < 0.05 * full.norm()


def test_fp16_is_refused_with_the_reason() -> None:
    written = OmegaConf.load(Path(__file__).parents[2] / "conf" / "config.yaml").rules.precision
    rule = parsed_rule(written)
    assert rule.refusal("fp32", written) is None and rule.refusal("bf16", written) is None
    assert rule.refusal("fp16", written).startswith("is not one of fp32, bf16; fp16 would need loss scaling")
