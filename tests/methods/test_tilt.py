"""Tilt against its law on the Gaussian world, and against what its cache and its rounds promise.

There the weighted images have another mean, m_w, and the plain ones m_u. Within the family of shifts that the tuned
view has, the law's minimiser is the shift of epsilon that moves the denoiser's data by m_w - m_u,
    h_i = -s_i a_i (a_i^2 Sigma + s_i^2)^-1 (m_w - m_u),
whatever error the base has: that is added. For exact images and a reward b . x, m_w - m_u is Sigma b / alpha.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdt import run
from rdt.cache import Samples
from rdt.errors import Diverged, UsageError
from rdt.methods import tilt
from rdt.methods.tilt import ImageDraws, Tilt, effective, pooled_spread, regression, weighted
from rdt.policy import Policy
from rdt.rewards.base import Reward
from rdt.rewards.contract import RewardError
from rdt.rollout import Sampling
from rdt.training import folder
from rdt.training.launch import launch, work
from worlds import gaussian, tiny_policy
from worlds.gaussian import ALPHA, MU, ROOT, SIGMA, TILT, B, Gaussian, error, scales
from worlds.smallest_run import adapter, minimal, rows

T = 8


class Constant(tiny_policy.Brightness):
    """Score every image alike."""

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return 0 * super().forward(images, prompts) + 0.3


class Blind(tiny_policy.Brightness):
    """Have no score for the darkest image of a batch."""

    missing = "skip"

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        scores = super().forward(images, prompts)
        return scores.masked_fill(scores == scores.min(), torch.nan)


class Counted(tiny_policy.Brightness):
    """Count the images that were scored, and fail after some of them."""

    def __init__(self, most: int = 10**6) -> None:
        super().__init__()
        self.scored, self.most = 0, most

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        if self.scored + len(images) > self.most:
            raise RuntimeError("the machine is gone")
        self.scored += len(images)
        return super().forward(images, prompts)


def method(policy: Any, samples: Path, reward: Reward | None = None, **changed: Any) -> Tilt:
    """Return tilt with few images; `changed` replaces options, among them those of the sampler."""
    options: dict[str, Any] = {
        "strength": 2.0, "prompts": 100, "images": 6, "control": "base", "rounds": 1, "updates_per_round": 2,
        "samples": str(samples), "sample_batch_size": 4, "sample_seed": 0, "rescore": False, "batch_size": 8, "seed": 0,
        "lr": 0.02, "weight_decay": 0.0, "max_grad_norm": 1e9, "adam_eps": 1e-8, "micro_batch_size": None,
    }  # fmt: skip
    steps, eta, scale = (changed.pop(key, usual) for key, usual in (("steps", 3), ("eta", 1.0), ("scale", 3.0)))
    reward = reward or (tiny_policy.Brightness() if isinstance(policy, Policy) else gaussian.Linear())
    return Tilt(policy=policy, reward=reward, sampling=Sampling(steps, eta, scale), **(options | changed))


def keep_exact_images(policy: Gaussian, found: Path, count: int) -> None:
    """Put images of the data distribution where a run of the Gaussian world finds them."""
    exact = tiny_policy.normal(count // 2, 3, seed=5)
    exact = MU + torch.cat([exact, -exact]) @ ROOT.T
    samples = Samples(
        found, policy, policy.base, Sampling(T, 1.0, 1.0), model=policy.digest(), prompts=[""], count=count, size=count,
        seed=0,
    )  # fmt: skip
    samples._write(samples.file(samples.pieces[0]), exact.view(count, 3, 1, 1))


def moved_means(trained: Tilt) -> Tensor:
    """Return m_w - m_u, (3,)."""
    n = trained.image_count
    x = trained.opened.samples.latents([""] * n, range(n)).flatten(1).double()
    return ((trained.opened.weights[0] - 1 / n) @ x).float()


def shift_of(policy: Gaussian, moved: Tensor) -> Tensor:
    """Return the shift of epsilon (T, 3) of data whose mean is moved."""
    found = []
    for t in policy.process.times(T)[:-1]:
        a, s = scales(policy.process, t)
        found.append(-(s * a) * torch.linalg.solve(a**2 * SIGMA + s**2 * torch.eye(3), moved[:, None])[:, 0])
    return torch.cat(found)


def expected_gradient(trained: Tilt, shift: Tensor) -> Tensor:
    """Return the exact gradient of the loss for a shift, (T, 3): it is linear in e, whose mean is 0."""
    n, policy, found = trained.image_count, trained.policy, []
    weights = trained.opened.weights[0]
    q = (weights + 1 / n) / 2
    x0 = trained.opened.samples.latents([""] * n, range(n))
    cond = policy.encode([""] * n)
    for i, t in enumerate(policy.process.times(T)[:-1]):
        draws = ImageDraws([""] * n, list(range(n)), torch.full((n,), i), (weights - 1 / n) / q, 1 / n / q)
        policy.shift.data = shift.clone()
        x = policy.process.perturb(x0, torch.zeros_like(x0), t)
        output, base = (view(x, t.expand(n), cond) for view in (policy.tuned, policy.base))
        target = torch.zeros_like(x0)  # e
        losses = regression(draws, output, target, base if trained.controlled else target)
        found.append(torch.autograd.grad(q.to(losses) @ losses, policy.shift)[0][i])
    return torch.stack(found)


@pytest.mark.parametrize("base_error", [0.0, 0.7])
def test_the_loss_is_stationary_where_the_law_says(base_error: float, tmp_path: Path) -> None:
    """The base's own images have another covariance than its denoiser: the control variate takes that out."""
    policy = gaussian.world(T)
    policy.base_shift = torch.full((3,), base_error)
    trained = method(policy, tmp_path, images=64, steps=T, scale=1.0, lr=0.0)
    tiny_policy.fit(trained, 1, prompts=[""])
    expected = shift_of(policy, moved_means(trained)) + policy.base_shift
    start, end = (expected_gradient(trained, shift) for shift in (torch.zeros(T, 3), expected))
    assert (end.norm(dim=1) < 1e-4 * start.norm(dim=1)).all()


def test_plain_weighted_regression_forgets_the_error_of_the_base(tmp_path: Path) -> None:
    policy = gaussian.world(T)
    policy.base_shift = torch.full((3,), 0.7)
    trained = method(policy, tmp_path, images=64, steps=T, scale=1.0, lr=0.0, control="none")
    tiny_policy.fit(trained, 1, prompts=[""])
    n = trained.image_count
    mean = trained.opened.samples.latents([""] * n, range(n)).flatten(1).mean(0)
    expected = shift_of(policy, moved_means(trained) + mean - MU)  # the denoiser of the weighted images alone
    start, end = (expected_gradient(trained, shift) for shift in (torch.zeros(T, 3), expected))
    assert (end.norm(dim=1) < 1e-4 * start.norm(dim=1)).all()


def test_training_on_exact_images_gives_the_tilt(tmp_path: Path) -> None:
    policy, n = gaussian.world(T), 2048
    keep_exact_images(policy, tmp_path, n)
    spread = (B @ SIGMA @ B).sqrt().item()
    trained = method(
        policy, tmp_path, images=n, sample_batch_size=n, steps=T, scale=1.0, strength=spread / ALPHA, batch_size=256,
        lr=0.03,
    )  # fmt: skip
    path: list[Tensor] = []
    probe = tiny_policy.Probe(lambda *_: path.append(policy.shift.detach().clone()))
    tiny_policy.fit(trained, 100, probe, prompts=[""])
    policy.shift.data = torch.stack(path[40:]).mean(0)  # without most of the noise of single updates
    assert trained.spread == pytest.approx(spread, rel=0.03)
    assert error(moved_means(trained), TILT) < 0.1
    assert error(policy.shift.detach(), shift_of(policy, moved_means(trained))) < 0.06
    (mean, covariance), (base, own) = (gaussian.law(view, policy, 0.0) for view in (policy.tuned, policy.base))
    assert error(mean - base, TILT) < 0.15 and error(covariance, own) < 1e-4


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("make", [tiny_policy.policy, tiny_policy.flow_policy])
@pytest.mark.parametrize("changed", [{"strength": 0.0}, {"images": 1}, {"reward": Constant()}], ids=str)
def test_without_a_tilt_tuned_stays_the_base_bit_for_bit(
    changed: dict[str, Any], make: Any, scale: float, tmp_path: Path
) -> None:
    policy = make(trained=False)
    tiny_policy.fit(method(policy, tmp_path, scale=scale, **changed), 3)
    assert not any(weight.any() for name, weight in policy.lora().items() if "lora_B" in name)


def test_plain_weighted_regression_drifts_without_a_tilt(tmp_path: Path) -> None:
    policy = tiny_policy.policy(trained=False)
    tiny_policy.fit(method(policy, tmp_path, strength=0.0, control="none"), 3)
    assert all(weight.any() for name, weight in policy.lora().items() if "lora_B" in name)


@pytest.mark.parametrize("make", [tiny_policy.policy, tiny_policy.flow_policy])
def test_a_real_policy_learns(make: Any, tmp_path: Path) -> None:
    policy = make(trained=False)
    before = tiny_policy.brightness(policy)
    tiny_policy.fit(method(policy, tmp_path, images=16, batch_size=32), 25)
    assert tiny_policy.brightness(policy) > before + 0.002


def test_weights_are_a_softmax_within_the_prompt_and_exactly_uniform_without_a_difference() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [0.1, 0.1, 0.1], [5.0, 4.0, 0.0]])
    absent = torch.zeros(3, 3, dtype=torch.bool)
    absent[2, 2] = True
    found = weighted(scores, 0.5, absent)
    torch.testing.assert_close(found[0], (0.5 * scores[0].double()).softmax(0))
    assert (found[1] == 1 / 3).all() and found[2, 2] == 1 / 3
    torch.testing.assert_close(found[2, :2], (0.5 * scores[2, :2].double()).softmax(0) * 2 / 3)
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.double))
    assert (weighted(scores, 0.0, absent) == 1 / 3).all()
    assert (weighted(scores, 1.0, torch.ones(3, 3, dtype=torch.bool)) == 1 / 3).all()


def test_the_effective_sample_size_falls_from_all_images_to_one() -> None:
    scores, absent = tiny_policy.normal(50, 64), torch.zeros(50, 64, dtype=torch.bool)
    sizes = [effective(weighted(scores, rate, absent)).mean().item() for rate in (0.0, 0.5, 1.0, 3.0, 1e4)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 64 and sizes[-1] == pytest.approx(1)
    assert sizes[1] == pytest.approx(64 * torch.tensor(-0.25).exp().item(), rel=0.05)  # n exp(-rate^2) in the limit
    assert pooled_spread(3 * scores, absent) == pytest.approx(3, rel=0.05) and pooled_spread(scores[:, :1], absent) == 0


def test_the_images_are_shared_by_strengths_seeds_and_rewards(tmp_path: Path) -> None:
    reward = Counted()
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path, reward), 1)
    whole = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert reward.scored == 3 * 6 and len(whole) == 3 * 2 * 2  # prompts x files of 4 and 2 x (latents, scores)
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path, reward, strength=0.5, seed=7), 1)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == whole
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path, Constant()), 1)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 * 2 * 3 and reward.scored == 3 * 6
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path, reward, rescore=True), 1)
    assert reward.scored == 2 * 3 * 6


@pytest.mark.parametrize("changed", [{"steps": 4}, {"eta": 0.5}, {"scale": 2.0}, {"sample_seed": 1}], ids=str)
def test_another_sampler_guidance_or_seed_of_the_images_shares_none(changed: dict[str, Any], tmp_path: Path) -> None:
    for own in ({}, changed):
        tiny_policy.fit(method(tiny_policy.policy(), tmp_path, **own), 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_run_has_finished_is_kept_and_the_rest_has_equal_bits(tmp_path: Path) -> None:
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path / "whole"), 1)
    with pytest.raises(RewardError, match="the machine is gone"):
        tiny_policy.fit(method(tiny_policy.policy(), tmp_path / "killed", Counted(most=9)), 1)
    for file in list((tmp_path / "killed").rglob("*-0-4.safetensors"))[:1]:
        file.unlink()
    left = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("*.safetensors")}
    reward = Counted()
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path / "killed", reward), 1)
    assert reward.scored == 3 * 6 - 6
    found, whole = (
        {file.name: file for file in (tmp_path / name).rglob("*.safetensors")} for name in ("killed", "whole")
    )
    assert all(found[name].stat().st_mtime_ns == time for name, time in left.items())
    latents = [name for name in whole if name in found]
    assert len(latents) == 3 * 2 and all(found[name].read_bytes() == whole[name].read_bytes() for name in latents)


def test_a_run_is_charged_all_its_images_whether_they_were_there_or_not(tmp_path: Path) -> None:
    spent = []
    for _ in range(2):
        policy = tiny_policy.policy()
        trained = method(policy, tmp_path)
        tiny_policy.fit(trained, 2)
        spent.append((policy.passes, policy.backward_passes, trained.images))
    assert spent == [(3 * 6 * 3 * 2 + 2 * 8 * 4, 2 * 8, 3 * 6)] * 2


def test_images_without_a_score_add_nothing_and_are_counted(tmp_path: Path) -> None:
    trained = method(tiny_policy.policy(), tmp_path, Blind())
    logged = tiny_policy.fit(trained, 1).callback_metrics
    assert logged["train/missing"] == 3 * 2  # the darkest of each file
    assert ((trained.opened.weights == 1 / 6).sum(1) == 2).all()


def test_a_score_that_is_not_a_number_stops_the_run_and_is_not_kept(tmp_path: Path) -> None:
    blind = Blind()
    blind.missing = "stop"
    with pytest.raises(Diverged, match=r"^Blind\(\) scored image \d of the prompt '.*' as nan|^Blind.*nan"):
        tiny_policy.fit(method(tiny_policy.policy(), tmp_path, blind), 1)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 * 2


def test_few_effective_images_are_warned_of_with_the_rounds_that_help(tmp_path: Path, capsys: Any) -> None:
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path, images=16, strength=20.0), 1)
    line = capsys.readouterr().err
    assert "warning: method.strength=20.0 leaves an effective sample size of 1" in line and "method.rounds=" in line
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path, images=16, strength=0.5), 1)
    assert "effective sample size" not in capsys.readouterr().err


def test_a_round_samples_the_policy_of_its_beginning_and_adds_its_share_of_the_strength(tmp_path: Path) -> None:
    policy, kept = tiny_policy.policy(trained=False), []

    def look(method: Tilt, _: Any) -> None:
        kept.append((method.opened.number, method.opened.metrics["spread"], method.policy.snapshots))

    trained = method(policy, tmp_path, rounds=2, updates_per_round=2)
    tiny_policy.fit(trained, 5, tiny_policy.Probe(look))
    assert [number for number, *_ in kept] == [0, 0, 1, 1, 1] and len({spread for _, spread, _ in kept}) == 1
    assert policy.snapshots == [tilt.ANCHOR] and len(list(tmp_path.iterdir())) == 2
    assert trained.images == 2 * 3 * 6


BAD = [
    ({"strength": -1.0}, r"method\.strength=-1\.0 must be at least 0; reward\.scale=-1 minimises a reward"),
    ({"prompts": 0}, r"method\.prompts=0 must be at least 1"),
    ({"images": 0}, r"method\.images=0 must be at least 1"),
    ({"rounds": 0}, r"method\.rounds=0 must be at least 1"),
    ({"control": "tuned"}, r"method\.control=tuned is not one of base, none"),
]


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        method(tiny_policy.policy(), tmp_path, **changed)


def test_a_damaged_file_of_images_is_named(tmp_path: Path) -> None:
    tiny_policy.fit(method(tiny_policy.policy(), tmp_path), 1)
    file = sorted(tmp_path.rglob("*-0-4.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=file.name):
        tiny_policy.fit(method(tiny_policy.policy(), tmp_path), 8)


@pytest.mark.parametrize(("rounds", "images", "passes"), [(1, "40", "400"), (2, "80", "800")])
def test_a_dry_run_foresees_passes_and_disk(rounds: int, images: str, passes: str, answered: Any) -> None:
    words = ("method.prompts=10", "method.images=4", f"method.rounds={rounds}", "cache=/x", "dry_run=true")
    for model, size in (("shapes", 0), ("sd15", round(int(images) * 4 * 4 * 64 * 64 / 1e6))):
        status, plan, _ = answered(run.entry, "method=tilt", "reward=jpeg", f"model={model}", *words)
        assert status == 0 and f"keep on disk: {images} images, {size} MB, in /x/samples" in plan
        assert model == "sd15" or f"sample for that: {passes} network passes" in plan


def config(out: Path, *overrides: str) -> Any:
    settings = ("logger=csv", "method.rounds=2", "method.updates_per_round=2", "iterations=5", "batch_size=4")
    return minimal(out, "method=tilt", *settings, "trainer.checkpoint_every=1", "reward=gold", *overrides)


@pytest.mark.parametrize("done", [2, 3], ids=["where a round begins", "within a round"])
def test_a_run_of_two_rounds_resumes_bit_for_bit_even_without_its_images(done: int, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    work(config(whole))
    work(config(out, f"iterations={done}"))
    shutil.rmtree(out / folder.ROUNDS, ignore_errors=True)
    shutil.rmtree(f"{out}-cache")
    work(config(out))
    assert all(tensor.equal(adapter(out)[name]) for name, tensor in adapter(whole).items()) and rows(out) == rows(whole)
    states = [torch.load(folder.checkpoints(one)[-1] / "run.ckpt", weights_only=True) for one in (whole, out)]
    assert states[0]["passes"] == states[1]["passes"] and states[0]["tilt"] == states[1]["tilt"]
    anchors = [state["snapshots"][tilt.ANCHOR] for state in states]
    assert all(tensor.equal(anchors[1][name]) for name, tensor in anchors[0].items())


def test_a_run_continues_with_another_cache_of_equal_content_alone(tmp_path: Path) -> None:
    whole, out, moved = tmp_path / "whole", tmp_path / "out", tmp_path / "moved"
    work(config(whole))
    work(config(out, "iterations=1"))
    shutil.move(f"{out}-cache", moved)
    continued = config(out, f"cache={moved}")
    folder.check_output_dir(continued)
    for file in [file for file in moved.rglob("*.safetensors") if re.search(r"\.\w+\.safetensors$", file.name)]:
        scores = load_file(file)["values"]
        save_file({"values": scores + 1}, file)
    with pytest.raises(UsageError, match=rf"^{moved}/\S+ holds images of other scores than .* take its cache= again"):
        work(continued)
    shutil.rmtree(moved)
    work(continued)
    assert all(tensor.equal(adapter(out)[name]) for name, tensor in adapter(whole).items())


@pytest.mark.slow
def test_two_ranks_make_the_rounds_of_one(tmp_path: Path) -> None:
    work(config(tmp_path / "alone", "micro_batch_size=2"))
    launch(config(tmp_path / "two", "devices=2"))
    found = [adapter(tmp_path / name) for name in ("alone", "two")]
    assert all(tensor.equal(found[1][name]) for name, tensor in found[0].items())
    assert rows(tmp_path / "alone")[-1]["train/ess"] == rows(tmp_path / "two")[-1]["train/ess"]
