"""GARDO's gate, moving reference and isolation meet their definitions, and with all off it is GRPO, bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.methods.gardo import GARDO, REFERENCE, Gate, above_quantile, isolation, relative_to_mean, uncertainty, win_rate
from worlds import tiny_policy
from worlds.gaussian import ALPHA, Linear, optimum, world
from worlds.groups import pixels, same_weights, z_scores
from worlds.judged import gardo, judged
from worlds.policy_gradients import POLICIES, grpo

STEPS = 4


def trained(method: Any, iterations: int = 3) -> Any:
    """Train a method and return it."""
    tiny_policy.fit(method, iterations)
    return method


def cost(method: GARDO) -> tuple[int, int]:
    """Return the forward and backward passes."""
    return method.policy.passes, method.policy.backward_passes


def test_the_win_rate_is_the_share_of_the_batch_that_a_score_beats() -> None:
    assert win_rate(torch.tensor([3.0, 1.0, 2.0, 2.0])).tolist() == [0.75, 0.0, 0.25, 0.25]
    scores = tiny_policy.normal(2, 7)
    assert win_rate(scores)[1].equal(win_rate(scores[1]))


def test_uncertain_is_what_the_trained_reward_alone_finds_good() -> None:
    """The official code's ranks, 1 being the best, find the opposite."""
    proxy, others = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 4.0], [4.0, 3.0]])
    U = uncertainty(proxy, others)
    torch.testing.assert_close(U, torch.tensor([0.625, 0.375, -0.375, -0.625], dtype=torch.double))
    assert above_quantile(U, 0.25).tolist() == [True, False, False, False]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_a_gate_holds_its_share_of_the_batch(share: float) -> None:
    """The quantile of the non-negative half alone would hold half as many."""
    U = uncertainty(tiny_policy.normal(400), tiny_policy.normal(400, 2, seed=1))
    assert above_quantile(U, share).double().mean() == pytest.approx(share, abs=0.011)


def test_of_equal_scores_none_is_held() -> None:
    assert not Gate(0.1, [0.02, 0.2], False)(torch.ones(2, 5), torch.ones(2, 5, 1)).any()


def test_the_mean_of_the_uncertainty_is_zero_without_ties() -> None:
    assert uncertainty(tiny_policy.normal(50), tiny_policy.normal(50, 3, seed=1)).mean().abs() < 1e-12


def test_over_the_batch_a_gate_mixes_prompts_and_by_prompt_it_does_not() -> None:
    """Under the trained reward alone, all images of the first prompt have a higher score than those of the second."""
    proxy = torch.tensor([[14.0, 13.0, 12.0, 11.0], [4.0, 3.0, 2.0, 1.0]])
    others = torch.tensor([[2.0, 1.0, 4.0, 3.0], [12.0, 11.0, 14.0, 13.0]]).unsqueeze(-1)
    batch, prompt = (Gate(0.5, [0.02, 0.5], by_prompt)(proxy, others) for by_prompt in (False, True))
    assert batch.view(2, 4).tolist() == [[True] * 4, [False] * 4]
    assert prompt.tolist() == [[True, True, False, False]] * 2


def test_the_share_follows_a_level_beyond_the_last_twenty_within_its_bounds() -> None:
    gate = Gate(0.1, [0.09, 0.115], False)
    for level in [0.5, *[0.4] * 19]:
        gate.follow(level)
    assert gate.share == 0.1
    shares = []
    for level in (0.6, 0.55, 0.7, 0.8, 0.1, 0.05, 0.01):
        gate.follow(level)
        shares.append(gate.share)
    assert shares == pytest.approx([0.11, 0.11, 0.115, 0.115, 0.1035, 0.09315, 0.09]) and len(gate.levels) == 20


def test_isolation_is_the_distance_to_the_nearest_other_image() -> None:
    features = tiny_policy.normal(3, 6, 4)
    found = isolation(features)
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    for p in range(3):
        for i in range(6):
            nearest = min(1 - unit[p, i] @ unit[p, j] for j in range(6) if j != i)
            torch.testing.assert_close(found[p, i], nearest)
    torch.testing.assert_close(relative_to_mean(found).mean(1), torch.ones(3, dtype=torch.double))
    assert relative_to_mean(isolation(torch.ones(2, 4, 3))).equal(torch.ones(2, 4, dtype=torch.double))


@pytest.mark.parametrize("scale", ["mean", "raw"])
def test_only_positive_advantages_are_multiplied_by_isolation(scale: str) -> None:
    method = trained(gardo(POLICIES["ddim"](), lr=0.0, isolation=scale, embedder=pixels), 1)
    plain = trained(grpo(POLICIES["ddim"](), judged(), lr=0.0), 1)
    A = plain.rollouts.advantages[:, 0].view(2, 4).double()
    images = method.policy.decode(plain.rollouts.trajectory.clean)
    d = isolation(pixels(images).view(2, 4, -1))
    weight = d / d.mean(1, keepdim=True) if scale == "mean" else d
    torch.testing.assert_close(
        method.rollouts.advantages[:, 0].view(2, 4), torch.where(A > 0, A * weight, A).float(), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("kind", POLICIES)
def test_with_all_off_it_is_grpo_without_std_and_kl_bit_for_bit(kind: str) -> None:
    ours = trained(gardo(POLICIES[kind](), guidance=3.0, kl_coef=0.5))
    theirs = trained(grpo(POLICIES[kind](), judged(), guidance=3.0))
    assert same_weights(ours, theirs) and cost(ours) == cost(theirs)


@pytest.mark.parametrize("kind", POLICIES)
def test_with_the_gate_at_all_and_no_reset_it_is_grpo_with_a_kl_bit_for_bit(kind: str) -> None:
    ours = trained(gardo(POLICIES[kind](), gate="all", kl_coef=0.5))
    theirs = trained(grpo(POLICIES[kind](), judged(), kl_coef=0.5))
    assert same_weights(ours, theirs) and cost(ours) == cost(theirs)


def test_the_base_runs_on_held_samples_alone() -> None:
    method = trained(gardo(tiny_policy.policy(), gate="uncertain", gate_share=0.2, kl_coef=0.5), 1)
    held = int(method.rollouts.held.sum())
    assert 0 < held < 8
    assert cost(method) == ((8 + 8 + held) * STEPS, 8 * STEPS)


def test_the_gate_reads_the_parts_of_weight_zero_and_its_samples_alone_have_a_kl() -> None:
    method = gardo(tiny_policy.policy(), gate="uncertain", kl_coef=0.5, lr=0.0)
    logged: list[dict[str, Tensor]] = []
    tiny_policy.fit(method, 1, tiny_policy.Probe(lambda m, _: logged.append(dict(m.trainer.callback_metrics))))
    images = method.policy.decode(method.rollouts.trajectory.clean)
    parts = judged().parts(images, [""] * 8)
    expected = above_quantile(uncertainty(parts[None, :, 0], parts[None, :, 1:]), 0.1).flatten()
    assert method.rollouts.held.equal(expected) and expected.any()
    every = gardo(tiny_policy.policy(), gate="all", kl_coef=0.5, lr=0.0)
    whole: list[float] = []
    tiny_policy.fit(every, 1, tiny_policy.Probe(lambda m, _: whole.append(m.trainer.callback_metrics["train/kl_nats"])))
    assert logged[0]["train/kl_nats"] > 0 and not logged[0]["train/kl_nats"].isclose(whole[0])


@pytest.mark.parametrize("kind", POLICIES)
def test_a_reset_after_every_update_makes_the_reference_the_policy_of_the_rollout(kind: str) -> None:
    """Its KL is 0 with its gradient, so the weights are those without a KL.

    Attention of the flow's network differs in last bits with and without gradient, so there it holds up to rounding.
    """
    nats: list[float] = []
    probe = tiny_policy.Probe(lambda m, _: nats.append(m.trainer.callback_metrics["train/kl_nats"].item()))
    ours = gardo(POLICIES[kind](trained=False), gate="all", kl_coef=0.5, reset_every=1)
    tiny_policy.fit(ours, 3, probe)
    theirs = trained(gardo(POLICIES[kind](trained=False)))
    assert max(nats) < 1e-6 and ours.resets == 3
    assert kind != "ddim" or (nats == [0.0, 0.0, 0.0] and same_weights(ours, theirs))
    assert all(one.equal(ours.policy.lora()[name]) for name, one in ours.policy.lora(REFERENCE).items())


def test_the_reference_moves_once_the_kl_per_step_and_dimension_exceeds_the_bound() -> None:
    nats: list[float] = []
    probe = tiny_policy.Probe(lambda m, _: nats.append(m.trainer.callback_metrics["train/kl_nats"].item()))
    tiny_policy.fit(gardo(tiny_policy.policy(), gate="all", kl_coef=0.1, lr=0.0), 1, probe)
    per_dimension = nats[0] / STEPS / 64
    for factor, resets in ((0.99, 1), (1.01, 0)):
        method = gardo(tiny_policy.policy(), gate="all", kl_coef=0.1, lr=0.0, reset_kl=factor * per_dimension)
        assert trained(method, 1).resets == resets
    assert trained(gardo(tiny_policy.policy(), gate="all", kl_coef=0.1, lr=0.0, reset_every=2), 5).resets == 2


@pytest.mark.parametrize("resets", [0, 1, 2])
def test_after_each_reset_the_optimum_is_tilted_once_more(resets: int) -> None:
    """After n resets at convergence the shift of every step is n + 1 times that of the tilt, and nothing less."""
    samples = 128
    for tilts, rests in ((resets + 1, True), (resets, False)):
        policy = world(num_steps=STEPS)
        at_rest = optimum(policy)
        method = gardo(policy, Linear(), STEPS, gate="all", batch_size=samples, group=samples, lr=0.0, kl_coef=ALPHA)
        method.kl_coef *= 1 - 1 / samples  # the group's mean contains the sample itself
        policy.shift.data = resets * at_rest
        policy.keep(REFERENCE)
        method.resets = resets
        policy.shift.data = tilts * at_rest
        z = z_scores(method, 30)
        assert (z.abs().max() < 4.5) == rests


def test_what_adapts_is_saved_and_restored() -> None:
    method = trained(gardo(tiny_policy.policy(), gate="uncertain", kl_coef=0.5, reset_every=2))
    saved: dict[str, Any] = {"state_dict": dict(method.state_dict())}
    method.on_save_checkpoint(saved)
    other = gardo(tiny_policy.policy(), gate="uncertain", kl_coef=0.5, reset_every=2)
    other.on_load_checkpoint(saved)
    assert (other.resets, other.since_reset) == (1, 1) and other.gate.levels == method.gate.levels != []
    kept, restored = (one.policy.lora(REFERENCE) for one in (method, other))
    assert all(weight.equal(restored[name]) for name, weight in kept.items())


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"gate": "half"}, r"method\.gate=half is not one of uncertain, all, off"),
        ({"gate_within": "group"}, r"method\.gate_within=group is not one of batch, prompt"),
        ({"gate_share": 0.3}, r"method\.gate_share=0\.3 must lie in method\.gate_bounds=\[0\.02, 0\.2\], .*"),
        ({"isolation": "mean"}, r"method\.isolation=mean compares images; add 'method\.embedder=.*"),
        ({"isolation": "on"}, r"method\.isolation=on is not one of off, mean, raw"),
        ({"reset_every": 0}, r"method\.reset_kl=None and method\.reset_every=0 must be above 0 or null"),
        (
            {"gate": "uncertain", "reward": tiny_policy.Brightness()},
            r"method\.gate=uncertain compares the reward with parts of reward=mixture whose weight is 0, .*",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        gardo(tiny_policy.policy(), **changed)
