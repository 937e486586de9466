"""Evaluations are paired and share passes: a denoiser's values do not depend on what is evaluated beside it."""

import math
from collections.abc import Callable

import pytest
import torch

from rdt import guidance
from rdt.config.passes import Evaluated, foreseen
from rdt.evaluation import Evaluation, Evaluator, Protocol
from rdt.policy import Denoiser, Policy
from rdt.rollout import Sampling
from worlds import tiny_policy

POLICIES = [tiny_policy.policy, tiny_policy.flow_policy]
T, PROMPTS, IMAGES = 4, 2, 3
CFG = 2  # network passes per sample of a guided call
SAMPLED = CFG * PROMPTS * IMAGES  # network passes of one sampling step


def evaluator(kl_images: int, batch_size: int = 6) -> Evaluator:
    protocol = Protocol(tiny_policy.PROMPTS[:PROMPTS], IMAGES, kl_images, batch_size, seed=0, grid=(PROMPTS, 2))
    return Evaluator(protocol, {"bright": tiny_policy.Brightness()}, [], [])


def curve(policy: Policy) -> tuple[Denoiser, dict[str, Denoiser]]:
    """Return the guided base and points of every guidance, all with one shared memory of the base."""
    empty, base = policy.encode([""]), guidance.remembered(policy.base)
    context = guidance.Context(policy, base, lambda view, scale=None: guidance.cfg(view, empty, 3.0), T)
    points = {f"step {f}": guidance.AnnealedImportance("step", fraction=f)(context) for f in (0.25, 0.5, 0.75)}
    points |= {f"power {p}": guidance.AnnealedImportance("power", power=p)(context) for p in (0, 2)}
    points |= {f"scale {s}": guidance.AdapterScale(s)(context) for s in (0.0, 0.5)}
    points |= {f"cads {s}": guidance.ConditionAnnealing(0.6, 0.9, s, 1.0)(context) for s in (0.0, 0.2)}
    return context.guided(base), points


def run(policy: Policy, names: list[str], kl_images: int = 1, batch_size: int = 6) -> tuple[dict[str, Evaluation], int]:
    """Return the evaluations of the base and of points, and how many network passes they took."""
    base, points = curve(policy)
    before = policy.passes
    views = {name: base if name == "base" else points[name] for name in names}
    done = evaluator(kl_images, batch_size).run(policy, views, base, Sampling(T, 1.0, 3.0), rank=0, world=1)
    return done, policy.passes - before


@pytest.mark.parametrize(
    ("make", "batch_size"), [(tiny_policy.policy, 6), (tiny_policy.flow_policy, 6), (tiny_policy.flow_policy, 2)]
)
def test_points_of_a_curve_are_the_single_evaluations_bit_for_bit(make: Callable[[], Policy], batch_size: int) -> None:
    """This holds both if several prompts fill a batch and if one prompt takes two."""
    policy = make()
    names = list(curve(policy)[1])
    together, shared = run(policy, ["base", *names], batch_size=batch_size)
    total = 0
    for name in names:
        alone, passes = run(policy, [name], batch_size=batch_size)
        total += passes
        assert alone[name].grid.equal(together[name].grid)
        for score, values in alone[name].scores.items():
            assert values.equal(together[name].scores[score]), (name, score)
    assert shared <= total


@pytest.mark.parametrize("make", POLICIES)
def test_step_schedules_share_the_passes_of_the_base(make: Callable[[], Policy]) -> None:
    """Each fraction runs the tuned view after its switch; before it, the base runs once, for the longest prefix."""
    steps = ["step 0.25", "step 0.5", "step 0.75"]
    of_tuned = 3 + 2 + 1
    assert run(make(), steps, kl_images=0)[1] == SAMPLED * (3 + of_tuned)
    assert run(make(), steps[::-1], kl_images=0)[1] == SAMPLED * (3 + of_tuned)
    assert run(make(), ["base", *steps], kl_images=0)[1] == SAMPLED * (T + of_tuned)
    assert sum(run(make(), [name], kl_images=0)[1] for name in steps) == SAMPLED * 3 * T


@pytest.mark.parametrize("make", POLICIES)
def test_the_kl_shares_the_passes_of_the_base_too(make: Callable[[], Policy]) -> None:
    """The base runs once at each of a path's T states; up to a switch these are the states of the path before."""
    steps, measured = ["step 0.25", "step 0.5", "step 0.75"], CFG * PROMPTS
    of_base, of_tuned = T + (T - 2) + (T - 3), 3 + 2 + 1
    sampling = run(make(), steps, kl_images=0)[1]
    assert run(make(), steps, kl_images=1)[1] == sampling + measured * (of_base + of_tuned)


@pytest.mark.parametrize("make", POLICIES)
def test_the_kl_of_the_base_is_zero_and_grows_with_the_adapter(make: Callable[[], Policy]) -> None:
    done, _ = run(make(), ["base", "scale 0.0", "scale 0.5", "power 2", "power 0", "cads 0.0"])
    nats = {name: one.scores["kl_nats"] for name, one in done.items()}
    assert nats["base"].equal(nats["scale 0.0"]) and not nats["base"].any()
    assert (nats["power 2"] > 0).all() and (nats["scale 0.5"] < nats["power 0"]).all()
    assert nats["cads 0.0"].equal(nats["power 0"])  # both the tuned policy


def test_the_kl_is_the_sum_over_the_steps_of_the_path() -> None:
    policy = tiny_policy.policy()
    done, _ = run(policy, ["power 0"], kl_images=IMAGES)
    more, _ = run(policy, ["power 0"], kl_images=IMAGES + 5)  # no more than there are
    assert done["power 0"].scores["kl_nats"].equal(more["power 0"].scores["kl_nats"])
    one, _ = run(policy, ["power 0"], kl_images=1)
    assert not one["power 0"].scores["kl_nats"].equal(done["power 0"].scores["kl_nats"])
    none, _ = run(policy, ["power 0"], kl_images=0)
    assert "kl_nats" not in none["power 0"].scores
    assert all(math.isfinite(value) for value in done["power 0"].summary().values())


def test_ranks_split_the_prompts_and_their_scores_add_up_to_the_whole() -> None:
    policy = tiny_policy.policy()
    base, points = curve(policy)
    whole, _ = run(policy, ["step 0.5"], batch_size=IMAGES)
    view, sampling = {"step 0.5": points["step 0.5"]}, Sampling(T, 1.0, 3.0)
    one_by_one = evaluator(1, batch_size=IMAGES)
    shares = [one_by_one.run(policy, view, base, sampling, rank, 2)["step 0.5"] for rank in range(PROMPTS)]
    for name, values in whole["step 0.5"].scores.items():
        assert torch.cat([share.scores[name] for share in shares]).equal(values)
    with pytest.raises(ValueError, match="prompts=2 is fewer than devices=3"):
        evaluator(1).run(policy, view, base, sampling, rank=0, world=3)


AIG = {"schedule": "step", "power": 2.0, "fraction": 0.5, "constant": 0.5}
CURVES = {  # kind of passes, class and arguments of the points
    "steps": ("annealed", guidance.AnnealedImportance, [AIG | {"fraction": f} for f in (0.25, 0.5, 0.75, 1.0)]),
    "powers": ("annealed", guidance.AnnealedImportance, [AIG | {"schedule": "power", "power": p} for p in (0, 1, 4)]),
    "constants": ("annealed", guidance.AnnealedImportance, [
        AIG | {"schedule": "constant", "constant": c} for c in (0, 0.5)
    ]),
    "scales": ("scaled", guidance.AdapterScale, [{"scale": s} for s in (0.0, 0.5, 1.0)]),
    "guidances": ("rescaled", guidance.ClassifierFree, [{"scale": s} for s in (None, 1.0, 5.0)]),
    "conditions": ("tuned", guidance.ConditionAnnealing, [
        {"tau1": 0.6, "tau2": 0.9, "scale": s, "psi": 1.0} for s in (0.0, 0.2)
    ]),
    "particles": ("particles", guidance.SequentialMonteCarlo, [
        {"candidates": n, "alpha": 0.1, "gamma": 0.008, "gradient": False} for n in (1, 3)
    ]),
    "choices": ("chosen", guidance.BestOf, [{"candidates": n, "alpha": 0.1} for n in (1, 2, 5, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("kl_images", "batch_size"), [(0, 6), (1, 6), (IMAGES, 6), (1, 2)])
def test_the_passes_of_a_curve_are_foreseen_exactly(name: str, kl_images: int, batch_size: int) -> None:
    policy, (kind, make, arguments) = tiny_policy.policy(), CURVES[name]
    empty, base = policy.encode([""]), guidance.remembered(policy.base)

    def guided(view: Denoiser, scale: float | None = None) -> Denoiser:
        return guidance.cfg(view, empty, 3.0 if scale is None else scale)

    context = guidance.Context(policy, base, guided, T, tiny_policy.Brightness())
    under = guided(base)
    views = {"base": under} | {str(k): make(**one)(context) for k, one in enumerate(arguments)}
    before = policy.passes
    evaluator(kl_images, batch_size).run(policy, views, under, Sampling(T, 1.0, 3.0), rank=0, world=1)
    what = Evaluated(PROMPTS, IMAGES, kl_images, batch_size, T, CFG)
    assert policy.passes - before == what.passes(list(foreseen(arguments, kind, T)))


def test_six_steps_of_annealing_take_less_than_three_plain_samplings_beside_the_base() -> None:
    """They share its passes, and each adds the steps that the tuned policy samples; powers share one step alone."""
    what = Evaluated(prompts=4, images=4, kl_images=0, batch_size=16, num_steps=50, rows=2)
    plain = 2 * 4 * 4 * 50
    steps = [AIG | {"fraction": k / 10} for k in (3, 4, 5, 6, 7, 8)]
    assert 10 * (what.passes(list(foreseen(steps, "annealed", 50))) - plain) == 27 * plain
    powers = [AIG | {"schedule": "power", "power": p} for p in (0.5, 1, 2, 3, 4, 6)]
    assert 50 * (what.passes(list(foreseen(powers, "annealed", 50))) - plain) == 6 * 2 * 49 * plain


def test_recorded_images_have_their_own_scores_whatever_the_batch() -> None:
    policy = tiny_policy.policy()
    base, points = curve(policy)
    views = {"base": base, "power 2": points["power 2"]}
    found = {}
    for batch_size in (2, 6):
        protocol = Protocol(tiny_policy.PROMPTS[:PROMPTS], IMAGES, 0, batch_size, 0, (1, 1), recorded=(PROMPTS, 2))
        whole = Evaluator(protocol, {"bright": tiny_policy.Brightness()}, [], [])
        found[batch_size] = whole.run(policy, views, base, Sampling(T, 1.0, 3.0), rank=0, world=1)
    for name, one in found[6].items():
        assert list(one.pixels) == list(range(PROMPTS))
        for row, pixels in one.pixels.items():
            assert pixels.shape[0] == 2 and pixels.dtype == torch.uint8
            levels = pixels.double().div(255).flatten(1).mean(1)
            torch.testing.assert_close(one.image_scores[row]["bright"], levels, atol=2e-3, rtol=0)
            torch.testing.assert_close(pixels, found[2][name].pixels[row], atol=1, rtol=0)


def test_what_was_recorded_before_an_interruption_is_kept() -> None:
    policy = tiny_policy.policy()
    base, _ = curve(policy)
    protocol = Protocol(tiny_policy.PROMPTS[:PROMPTS], IMAGES, 0, IMAGES, 0, (1, 1), recorded=(PROMPTS, 2))
    whole, kept = Evaluator(protocol, {"bright": tiny_policy.Brightness()}, [], []), Memory()
    first = whole.run(policy, {"base": base}, base, Sampling(T, 1.0, 3.0), 0, 1, kept)["base"]
    before = policy.passes
    again = whole.run(policy, {"base": base}, base, Sampling(T, 1.0, 3.0), 0, 1, kept)["base"]
    assert policy.passes == before and all(again.pixels[row].equal(first.pixels[row]) for row in range(PROMPTS))
    assert again.image_scores[1]["bright"].equal(first.image_scores[1]["bright"])


class Memory:
    """Keeps what was measured of chunks of prompts."""

    def __init__(self) -> None:
        self.found: dict[int, dict] = {}

    def read(self, chunk: range) -> dict | None:
        return self.found.get(chunk.start)

    def write(self, chunk: range, found: dict) -> None:
        self.found[chunk.start] = found
