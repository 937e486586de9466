"""Guidance composes denoisers: its ends are its parts bit for bit, and it runs no pass it does not need."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from rdt import guidance
from rdt.process import Diffusion, Flow


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
    """Output x * gain + t + cond, counting the samples it was run on."""

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
