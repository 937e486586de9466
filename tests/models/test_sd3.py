"""Stable Diffusion 3's transformer and the embedded flow model keep the laws of views, replay and adapters."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from hydra.utils import instantiate
from torch import Tensor

from rdt.models import sd3
from rdt.models.lora import read_lora
from rdt.models.text import Text
from rdt.policy import TUNED, Adapter, Policy
from rdt.process import Flow
from rdt.rollout import Sampling, replayed, sampled
from rdt.shapes.pretrain import flow
from rdt.weights import BUNDLE
from worlds import tiny_policy
from worlds.smallest_run import minimal

X, T = tiny_policy.normal(2, *tiny_policy.LATENT), torch.tensor([0.9, 0.3])


def run(policy: Policy, view: str, x: Tensor = X) -> Tensor:
    return getattr(policy, view)(x, T, policy.encode(tiny_policy.PROMPTS[:2]))


def two_views(policy: Policy) -> Tensor:
    return run(policy, "base", X - run(policy, "tuned")).square().mean()


def test_a_fresh_tuned_view_is_the_base_bit_for_bit() -> None:
    policy = tiny_policy.flow_policy(trained=False)
    assert run(policy, "tuned").equal(run(policy, "base"))


def test_the_base_is_the_network_without_any_adapter() -> None:
    policy, bare = tiny_policy.flow_policy(), tiny_policy.flow_parts()
    tuned = run(policy, "tuned")
    expected = bare.predict(bare.network.eval(), X, T, policy.encode(tiny_policy.PROMPTS[:2]))
    assert run(policy, "base").equal(expected) and not tuned.equal(expected)
    assert run(policy, "tuned").equal(tuned)


def test_only_the_adapter_gets_a_gradient_through_both_views() -> None:
    policy = tiny_policy.flow_policy()
    found = tiny_policy.gradients(policy, two_views)
    assert all(f".{TUNED}." in name and gradient.norm() > 0 for name, gradient in found.items())


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    policy = tiny_policy.flow_policy()
    expected = tiny_policy.gradients(policy, two_views)
    policy.checkpoint_blocks()
    found = tiny_policy.gradients(policy, two_views)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * gradient.norm().item())


def test_a_shared_time_equals_the_same_time_per_sample() -> None:
    policy, t = tiny_policy.flow_policy(), torch.tensor(0.7)
    cond = policy.encode(tiny_policy.PROMPTS[:2])
    assert policy.tuned(X, t, cond).equal(policy.tuned(X, t.expand(2), cond))


def test_the_output_depends_on_the_pooled_prompt() -> None:
    policy = tiny_policy.flow_policy()
    cond = policy.encode(tiny_policy.PROMPTS[:2])
    swapped = type(cond)(cond.embeds, cond.pooled.flip(0))
    assert not policy.base(X, T, swapped).equal(policy.base(X, T, cond))


@pytest.mark.parametrize(("sampler", "eta"), [("sde", 0.7), ("cps", 0.5)])
def test_replayed_steps_have_the_log_probs_of_the_rollout(sampler: str, eta: float) -> None:
    policy = tiny_policy.flow_policy(sampler=sampler)
    cond = policy.encode(tiny_policy.PROMPTS)
    noise, sampling = policy.noise(0, "test", range(3)), Sampling(5, eta, 1.0)
    trajectory = sampled(policy, policy.tuned, tiny_policy.PROMPTS, noise, sampling).trajectory
    for i in range(5):
        step = replayed(policy.tuned, policy.process, cond, trajectory, i, eta)
        assert step.log_prob(trajectory.latents[:, i + 1]).equal(trajectory.log_probs[:, i])
        assert step.mean.requires_grad


def test_a_flow_has_no_consistency_view() -> None:
    with pytest.raises(ValueError, match=r"set method\.look_ahead=tweedie or n_step"):
        run(tiny_policy.flow_policy(), "consistency")


def test_a_saved_adapter_is_the_same_for_stock_diffusers_and_our_reader(tmp_path: Path) -> None:
    policy = tiny_policy.flow_policy()
    policy.save_lora(tmp_path)
    ours, network = tiny_policy.flow_policy(trained=False), tiny_policy.flow_parts().network.eval()
    ours.load_lora(read_lora(tmp_path / "pytorch_lora_weights.safetensors", ours.adapter))
    state, metadata = StableDiffusion3Pipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    StableDiffusion3Pipeline.load_lora_into_transformer(state, network, metadata=metadata)
    theirs = sd3.predict(network, X, T, policy.encode(tiny_policy.PROMPTS[:2]))
    torch.testing.assert_close(run(policy, "tuned"), theirs, rtol=0, atol=1e-5)
    policy.never_merge()
    ours.never_merge()
    assert run(ours, "tuned").equal(run(policy, "tuned"))
    assert theirs.equal(run(policy, "tuned")) and not theirs.equal(run(policy, "base"))


def test_a_saved_transformer_is_read_back(tmp_path: Path) -> None:
    network = flow.transformer()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    flow.save_flow(network, tmp_path)
    parts = sd3.parts(tmp_path, Text(BUNDLE / "base", sd3.KINDS), "cps")
    x, cond = tiny_policy.normal(2, *parts.latent_shape), parts.encode(["a circle", ""])
    assert parts.predict(parts.network, x, T, cond).equal(
        network.float().eval()(x, cond.embeds, cond.pooled, 1000 * T)[0]
    )
    assert isinstance(parts.process, Flow) and parts.process.shift == flow.SHIFT


def test_pretraining_starts_from_velocity_zero_and_times_above_0() -> None:
    times = flow.training_times(4096, torch.Generator().manual_seed(0))
    assert times.min() > 0 and times.max() <= 1 and 0.6 < times.mean() < 0.75
    velocity = flow.transformer()(
        tiny_policy.normal(2, 8, 8, 8), torch.ones(2, 12, 96), torch.ones(2, 96), 1000 * times[:2]
    )[0]
    assert velocity.count_nonzero() == 0


def test_the_bundled_flow_model_samples_images(tmp_path: Path) -> None:
    cfg = minimal(tmp_path / "out", "model=shapes_flow")
    policy = instantiate(cfg.model.policy, _partial_=True)(adapter=Adapter(**cfg.model.lora))
    noise, sampling = policy.noise(0, "test", range(2)), Sampling(10, cfg.model.sampling.eta, 1.0)
    images = policy.decode(sampled(policy, policy.base, ["a circle", "a small blue ring"], noise, sampling).clean)
    assert images.shape == (2, 3, 32, 32) and images.std() > 0.05


def test_the_bundle_is_small() -> None:
    assert sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file()) <= 10e6
