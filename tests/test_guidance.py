"""Guidance composes denoisers: at its ends it equals one of them bit for bit, and it runs no unnecessary pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from rdt import guidance
from rdt.cond import Cond as RealCond
from rdt.config.compose import composed, conf_dir
from rdt.config.curve import points
from rdt.policy import PAIRED_ROWS, Adapter, Policy
from rdt.process import Diffusion, Flow
from rdt.rollout import Sampling, sampled
from rdt.training.experiment import built
from worlds import tiny_policy


@dataclass(frozen=True)
class Cond:
    embeds: Tensor

    def __getitem__(self, rows: Tensor) -> "Cond":
        return Cond(self.embeds[rows])

    def to(self, device: torch.device) -> "Cond":
        return Cond(self.embeds.to(device))

    @staticmethod
    def cat(*conds: "Cond") -> "Cond":
        return Cond(torch.cat([c.embeds for c in conds]))


@dataclass
class Analytic:
    """Returns x * gain + t + cond and counts the samples of each call."""

    gain: float
    runs: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.runs.append(len(x))
        return x * self.gain + (t[:, None] if t.ndim else t) * 1e-3 + cond.embeds


X, COND, EMPTY = torch.linspace(-1, 1, 12).view(3, 4), Cond(torch.arange(3.0)[:, None]), Cond(torch.full((1, 1), -2.0))
TIMES = [Diffusion(alphas_cumprod=torch.linspace(0.99, 0.01, 1000), prediction="epsilon").times(10), Flow().times(10)]


@pytest.mark.parametrize("t", [torch.tensor(7), torch.tensor([1, 5, 9])])
def test_cfg_extrapolates_from_empty_to_conditional_in_one_doubled_batch(t: Tensor) -> None:
    denoiser = Analytic(2.0)
    out = guidance.cfg(denoiser, EMPTY, 5.0)(X, t, COND)
    u, c = denoiser(X, t, Cond(EMPTY.embeds.expand(3, 1))), denoiser(X, t, COND)
    assert denoiser.runs == [6, 3, 3]
    torch.testing.assert_close(out, u + 5 * (c - u))


def test_cfg_scale_one_costs_one_pass_and_is_the_denoiser() -> None:
    denoiser = Analytic(2.0)
    out = guidance.cfg(denoiser, EMPTY, 1.0)(X, torch.tensor(7), COND)
    assert denoiser.runs == [3]
    assert out.equal(Analytic(2.0)(X, torch.tensor(7), COND))


def test_cfg_scale_zero_ignores_the_condition() -> None:
    out = guidance.cfg(Analytic(2.0), EMPTY, 0.0)(X, torch.tensor(7), COND)
    assert out.equal(Analytic(2.0)(X, torch.tensor(7), Cond(EMPTY.embeds.expand(3, 1))))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize(("weight", "gain"), [(0.0, 1.1), (1.0, 2.3)])
def test_anneal_ends_are_base_and_tuned_bit_for_bit(weight: float, gain: float, times: Tensor) -> None:
    base, tuned = Analytic(1.1), Analytic(2.3)
    mixed = guidance.anneal(base, tuned, guidance.constant(weight), times)
    for t in times[:-1]:
        assert mixed(X, t, COND).equal(Analytic(gain)(X, t, COND))
    assert sorted([sum(base.runs), sum(tuned.runs)]) == [0, 30]


@pytest.mark.parametrize("times", TIMES)
def test_anneal_mixes_outputs_by_progress(times: Tensor) -> None:
    mixed = guidance.anneal(Analytic(1.0), Analytic(2.0), guidance.power(2), times)
    for i, t in enumerate(times[:-1]):
        torch.testing.assert_close(mixed(X, t, COND), Analytic(1 + (i / 10) ** 2)(X, t, COND))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("exponent", [1, 2, 4, 0.5])
def test_the_weights_are_i_over_T_to_the_power_exactly(exponent: float, times: Tensor) -> None:
    zero, one = Analytic(0.0), Analytic(0.0)
    mixed = guidance.anneal(
        lambda *a: torch.zeros_like(zero(*a)), lambda *a: torch.ones_like(one(*a)), guidance.power(exponent), times
    )
    weights = [mixed(X, t, COND).unique().item() for t in times[:-1]]
    assert weights == [torch.tensor((i / 10) ** exponent).item() for i in range(10)]


@pytest.mark.parametrize("times", TIMES)
def test_power_zero_is_tuned_bit_for_bit_at_no_extra_pass(times: Tensor) -> None:
    base, tuned = Analytic(1.1), Analytic(2.3)
    mixed = guidance.anneal(base, tuned, guidance.power(0), times)
    assert all(mixed(X, t, COND).equal(Analytic(2.3)(X, t, COND)) for t in times[:-1])
    assert [len(base.runs), len(tuned.runs)] == [0, 10]
    with pytest.raises(ValueError, match="exponent=-1 must not be below 0"):
        guidance.power(-1)


@pytest.mark.parametrize(("fraction", "of_base"), [(0.0, 0), (0.3, 3), (0.65, 7), (1.0, 10)])
def test_a_step_schedule_costs_no_more_passes_than_sampling(fraction: float, of_base: int) -> None:
    base, tuned, times = Analytic(1.0), Analytic(2.0), TIMES[0]
    mixed = guidance.anneal(base, tuned, guidance.step(fraction), times)
    for t in times[:-1]:
        mixed(X, t, COND)
    assert [len(base.runs), len(tuned.runs)] == [of_base, 10 - of_base]


def test_linear_starts_at_base_and_costs_two_passes_after() -> None:
    base, tuned, times = Analytic(1.0), Analytic(2.0), TIMES[1]
    mixed = guidance.anneal(base, tuned, guidance.linear(), times)
    for t in times[:-1]:
        mixed(X, t, COND)
    assert [len(base.runs), len(tuned.runs)] == [10, 9]


def test_schedules_rise_from_zero_to_one() -> None:
    grid = [i / 20 for i in range(21)]
    for schedule in (guidance.linear(), guidance.power(4), guidance.step(0.5)):
        weights = [schedule(progress) for progress in grid]
        assert weights == sorted(weights)
        assert [weights[0], weights[-1]] == [0, 1]


def test_times_off_the_grid_or_per_sample_are_refused() -> None:
    mixed = guidance.anneal(Analytic(1.0), Analytic(2.0), guidance.linear(), TIMES[1])
    with pytest.raises(ValueError, match=r"t=0.25 is none of the 10 times"):
        mixed(X, torch.tensor(0.25), COND)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        mixed(X, TIMES[1][:3], COND)


def test_guidance_composes() -> None:
    base, tuned, times = Analytic(1.0), Analytic(2.0), TIMES[1]
    inside = guidance.anneal(*(guidance.cfg(d, EMPTY, 3.0) for d in (base, tuned)), guidance.power(2), times)
    outside = guidance.cfg(guidance.anneal(base, tuned, guidance.power(2), times), EMPTY, 3.0)
    torch.testing.assert_close(inside(X, times[4], COND), outside(X, times[4], COND))


def test_the_base_is_remembered_if_nothing_differs() -> None:
    denoiser = Analytic(2.0)
    recalled, t = guidance.remembered(denoiser), torch.tensor(7)
    first = recalled(X, t, COND)
    assert recalled(X.clone(), t, COND).equal(first) and denoiser.runs == [3]
    recalled(X[:2], t, Cond(COND.embeds[:2]))  # outputs of other row counts are stored apart
    assert recalled(X, t, COND).equal(first) and denoiser.runs == [3, 2]
    other = Cond(COND.embeds + 1)
    assert recalled(X, t, other).equal(Analytic(2.0)(X, t, other)) and denoiser.runs == [3, 2, 3]
    assert recalled(X + 1, t, COND).equal(Analytic(2.0)(X + 1, t, COND))
    assert recalled(X, torch.tensor(8), COND).equal(Analytic(2.0)(X, torch.tensor(8), COND))


# The same laws on real networks, of both processes.

POLICIES = [tiny_policy.policy, tiny_policy.flow_policy]
KINDS = [file.stem for file in sorted((Path(conf_dir()) / "guidance").glob("*.yaml"))]
NUM_STEPS = 4


def cond(policy: Policy, count: int) -> RealCond:
    return policy.encode([tiny_policy.PROMPTS[k % 3] for k in range(count)])


def latents(policy: Policy, denoiser: guidance.Denoiser, count: int = 3) -> Tensor:
    """Return the latents (count, T + 1, *latent) of a rollout whose conditions carry noise."""
    prompts, noise = [tiny_policy.PROMPTS[k % 3] for k in range(count)], policy.noise(0, "test", range(count))
    return sampled(policy, denoiser, prompts, noise, Sampling(NUM_STEPS, 1.0, 1.0)).trajectory.latents


def context(policy: Policy) -> guidance.Context:
    empty = policy.encode([""])

    def guided(view: guidance.Denoiser, scale: float | None = None) -> guidance.Denoiser:
        return guidance.cfg(view, empty, 3.0 if scale is None else scale)

    return guidance.Context(policy, guidance.remembered(policy.base), guided, NUM_STEPS, tiny_policy.Brightness())


def adapted_convolutions() -> Policy:
    """Return a policy with low-rank updates of convolutions and of layers on (B, D) too."""
    policy = Policy(
        tiny_policy.parts(), Adapter(2, 2, [*tiny_policy.TARGETS, "conv1", "conv_in", "linear_1", "time_emb_proj"])
    )
    tiny_policy.disturb(policy)
    return policy


@pytest.mark.parametrize("make", [*POLICIES, adapted_convolutions])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_pair_is_base_and_tuned_of_one_call(make: Callable[[], Policy], count: int) -> None:
    policy = make()
    x, c = tiny_policy.normal(count, *tiny_policy.LATENT), cond(policy, count)
    for t in (policy.process.times(NUM_STEPS)[1], policy.process.times(count + 1)[:count]):
        expected = policy.base(x, t, c), policy.tuned(x, t, c)
        passes = policy.passes
        base, tuned = policy.pair(x, t, c)
        assert policy.passes == passes + 2 * count
        torch.testing.assert_close(base, expected[0])
        torch.testing.assert_close(tuned, expected[1])
        assert (tuned - base).abs().max() > 1e-3  # else the test could not tell them apart
        assert policy.base(x, t, c).equal(expected[0]) and policy.tuned(x, t, c).equal(expected[1])


def test_a_pair_has_the_gradients_of_two_calls() -> None:
    policy = adapted_convolutions()
    x, t, c = tiny_policy.normal(2, *tiny_policy.LATENT), torch.tensor(501), cond(policy, 2)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            policy.checkpoint_blocks()
        for outputs in (policy.pair, lambda *a: (policy.base(*a), policy.tuned(*a))):
            policy.zero_grad()
            sum(output.square().mean() for output in outputs(x, t, c)).backward()
            found.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", POLICIES)
def test_aig_ends_are_base_and_tuned_bit_for_bit(make: Callable[[], Policy]) -> None:
    policy = make()
    aig = guidance.AnnealedImportance
    ends = {
        aig("constant", constant=0): policy.base, aig("constant", constant=1): policy.tuned,
        aig("power", power=0): policy.tuned,
    }  # fmt: skip
    for annealed, view in ends.items():
        expected = latents(policy, context(policy).guided(view))
        before = policy.passes
        assert latents(policy, annealed(context(policy))).equal(expected)
        assert policy.passes == before + 2 * 3 * NUM_STEPS  # 3 samples, doubled by cfg: as many as plain sampling


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("count", [2, PAIRED_ROWS // 2 + 1])  # doubled by cfg: in pairs, and too many for it
def test_aig_is_the_mixture_however_its_views_are_run(make: Callable[[], Policy], count: int) -> None:
    policy = make()
    schedule, guided = guidance.power(2), context(policy).guided
    plain = guidance.anneal(policy.base, policy.tuned, schedule, policy.process.times(NUM_STEPS))
    before = policy.passes
    found = latents(policy, guidance.AnnealedImportance("power", power=2)(context(policy)), count)
    assert policy.passes == before + 2 * count * (2 * NUM_STEPS - 1)  # weight 0 at the first step
    torch.testing.assert_close(found, latents(policy, guided(plain), count), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.75, 1.0])
def test_a_step_schedule_costs_nothing_extra(make: Callable[[], Policy], fraction: float) -> None:
    policy = make()
    latents(policy, guidance.AnnealedImportance("step", fraction=fraction)(context(policy)))
    assert policy.passes == 2 * 3 * NUM_STEPS


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_guidance_works_on_every_policy(make: Callable[[], Policy], kind: str) -> None:
    """A guidance depends on the policy alone, not on the method that tuned it."""
    policy = make()
    config = OmegaConf.to_container(composed("config", f"guidance={kind}").guidance, resolve=True)
    found = latents(policy, built(*points(config))(context(policy)))
    assert found.isfinite().all()
    assert found[:, -1].equal(latents(policy, context(policy).guided(policy.tuned))[:, -1]) == (kind == "cfg")


def test_classifier_free_guidance_takes_another_scale() -> None:
    """Without a scale, guidance=cfg takes the scale of training."""
    policy = tiny_policy.policy()
    made = context(policy)
    other = guidance.ClassifierFree(scale=1.0)(made)
    assert latents(policy, guidance.ClassifierFree()(made)).equal(latents(policy, made.guided(policy.tuned)))
    assert latents(policy, other).equal(latents(policy, policy.tuned))
