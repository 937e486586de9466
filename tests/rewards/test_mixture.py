"""Mixtures agree with normalisations done by hand, give GRPO GDPO's advantages, and refuse bad parts."""

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from rdt.errors import Diverged
from rdt.methods.grpo import GRPO
from rdt.rewards.base import Reward
from rdt.rewards.jpeg import JpegReward, kilobytes, proxy
from rdt.rewards.mixture import Mixture, Term, mixture
from rdt.rollout import Sampling, sampled
from rdt.shapes.limit import Limit
from rdt.shapes.proxy import tabulate
from rdt.stream import subset
from rdt.targets import permitted
from rdt.training.experiment import Experiment, built
from worlds import tiny_policy
from worlds.smallest_run import minimal
from worlds.tiny_policy import Brightness, normal

PROMPTS = ["a circle", "a small blue ring", "a shape on white"]


class Contrast(Reward):
    """Scores a thousand times the standard deviation of all pixels."""

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return 1000 * images.flatten(1).std(1)


class Length(Reward):
    """Scores the prompt's length: a reward without a gradient."""

    differentiable = False

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts]).to(images.device)


def two(normalise: str) -> Mixture:
    """Return the mixture of two rewards that most tests use."""
    terms = {"bright": Term(Brightness(), 2.0, 0.5, 0.1), "contrast": Term(Contrast(), -0.5, 200.0, 40.0)}
    return Mixture(terms, normalise)


def images(count: int = 6) -> Tensor:
    return normal(count, 3, 8, 8).sigmoid()


def components(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of its two rewards, (B,) each."""
    prompts = ["anything"] * len(pictures)
    return Brightness()(pictures, prompts), Contrast()(pictures, prompts)


def score(normalise: str, pictures: Tensor) -> Tensor:
    return two(normalise)(pictures, ["anything"] * len(pictures))


def normalised(scores: Tensor) -> Tensor:
    """Normalise each row of (P, G)."""
    scores = scores.double()
    return (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True, correction=0) + 1e-4)


# scores


def test_raw_is_the_weighted_sum():
    bright, contrast = components(images())
    torch.testing.assert_close(score("raw", images()), 2 * bright - 0.5 * contrast)


@pytest.mark.parametrize("normalise", ["zscore", "group"])
def test_a_single_image_is_scored_by_fixed_constants(normalise):
    bright, contrast = components(images())
    expected = 2 * (bright - 0.5) / 0.1 - 0.5 * (contrast - 200) / 40
    torch.testing.assert_close(score(normalise, images()), expected)
    assert torch.equal(score(normalise, images())[:1], score(normalise, images()[:1]))


def test_the_gradient_is_the_weighted_sum_of_the_parts_gradients():
    pictures = images().requires_grad_()
    bright, contrast = components(pictures)
    expected = torch.autograd.grad((20 * bright - contrast / 80).sum(), pictures)[0]
    torch.testing.assert_close(torch.autograd.grad(score("zscore", pictures).sum(), pictures)[0], expected)


def test_one_part_without_a_gradient_leaves_the_mixture_without():
    both = Mixture({"bright": Term(Brightness(), 1.0), "length": Term(Length(), 1.0)}, "raw")
    assert two("raw").differentiable and not both.differentiable and both.reads_prompts
    with pytest.raises(ValueError, match="climbs the reward's gradient, and Mixture, because of length, has none"):
        built(minimal("never").method, "name", "plan", partial=True)(policy=tiny_policy.policy(), reward=both, **SHARED)


def test_a_mixture_can_be_part_of_a_mixture():
    outer = Mixture({"inner": Term(two("raw"), 3.0), "bright": Term(Brightness(), 1.0)}, "raw")
    expected = 3 * score("raw", images()) + components(images())[0]
    torch.testing.assert_close(outer(images(), ["anything"] * 6), expected)


# groups


def test_group_normalises_each_part_within_its_prompt():
    parts = torch.stack(components(images(8)), -1).unflatten(0, (2, 4))
    bright, contrast = parts.unbind(-1)
    expected = 2 * normalised(bright) - 0.5 * normalised(contrast)
    torch.testing.assert_close(two("group").relative(parts), expected)
    for other in ("raw", "zscore"):
        assert torch.equal(two(other).relative(parts), two(other).total(parts))


def test_in_a_group_the_unit_of_a_part_does_not_matter():
    parts = torch.stack(components(images(8)), -1).unflatten(0, (2, 4))
    rescaled = 1000 * parts.double() + torch.tensor([3.0, -70.0])
    near = {"atol": 5e-2, "rtol": 0}  # EPSILON is not negligible beside the spread of these images' brightness
    torch.testing.assert_close(two("group").relative(rescaled), two("group").relative(parts), **near)


def test_a_part_with_equal_scores_in_a_group_adds_nothing():
    parts = torch.stack([torch.full((2, 4), 0.1), torch.rand(2, 4)], -1)
    expected = -0.5 * normalised(parts[..., 1])
    assert torch.equal(two("group").relative(parts), expected)


SHARED = {"sampling": Sampling(3, 0.9, 2.0), "batch_size": 8, "seed": 0, "adam_eps": 1e-8, "micro_batch_size": None}
GROUPS = {
    "group": 4, "std": "global", "window": None, "window_within": 0.5, "clip": 1e-4, "kl_coef": 0.0, "min_std": 0.0,
    "lr": 1e-3, "uncond_grad": False, "updates_per_rollout": 1, "num_steps": None, "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}  # fmt: skip


def test_grpo_with_a_global_std_has_the_advantages_of_gdpo():
    made: list[Tensor] = []

    class Recording(Mixture):
        def parts(self, images: Tensor, prompts: list[str]) -> Tensor:
            made.append(super().parts(images, prompts))
            return made[-1]

    terms = {"bright": Term(Brightness(), 2.0, 0.5, 0.1), "contrast": Term(Contrast(), 1.0, 0.0, 9.0)}
    method = GRPO(policy=tiny_policy.policy(), reward=Recording(terms, "group"), **SHARED, **GROUPS)
    tiny_policy.fit(method, 1)
    bright, contrast = made[0].unflatten(0, (2, 4)).unbind(-1)
    summed = 2 * normalised(bright) + normalised(contrast)
    expected = (summed / (summed.std(correction=0) + 1e-4)).flatten()
    torch.testing.assert_close(method.rollouts.advantages[:, 0].double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(method.rollouts.rewards, method.reward.total(made[0]))


def test_a_method_without_groups_refuses_to_normalise_by_them():
    with pytest.raises(ValueError, match=r"reward\.normalise=group compares .* and SQDF makes one of each; take raw"):
        built(minimal("never").method, "name", "plan", partial=True)(
            policy=tiny_policy.policy(), reward=two("group"), **SHARED
        )


# the limit


def test_the_table_of_a_mixture_combines_those_of_its_parts():
    compressible = JpegReward(quality=95, incompressible=False)
    terms = {"jpeg": Term(compressible, 2.0, -0.9, 0.1), "length": Term(Length(), 1.0, 9.0, 3.0)}
    table = tabulate(Mixture(terms, "zscore"), PROMPTS, seed=3)
    jpeg = tabulate(compressible, PROMPTS, seed=3)
    length = torch.tensor([[len(prompt)] for prompt in PROMPTS])
    torch.testing.assert_close(table.score, 2 * (jpeg.score + 0.9) / 0.1 + (length - 9) / 3)
    assert jpeg.score[0].equal(jpeg.score[1]) and jpeg.score.std() > 0.05


@pytest.mark.parametrize("normalise", ["raw", "zscore", "group"])
def test_a_mixture_has_a_limit(normalise):
    rows = Limit(points=3, seed=0)(PROMPTS[:2], 4, two(normalise), "mixture")["proxy_frontier"]
    assert (torch.tensor([row["mixture"] for row in rows]).diff() > -1e-6).all()
    assert rows[0]["entropy"] > 0.9 and rows[-1]["entropy"] == 0


# the default mixture


def test_the_constants_and_the_correlation_hold_on_base_samples(tmp_path):
    """Means lie within four standard errors, spreads within 35 %; the proxy ranks samples as well as drawings."""
    cfg = minimal(tmp_path / "never", "reward=mixture", "model.sampling.num_steps=15", "logger=csv")
    world = Experiment(cfg)
    prompts = subset(prompts=instantiate(cfg.prompts.train, _convert_="all"), count=32, seed=1)
    policy, sampling = world.policy, world.sampling
    noise = policy.noise(1, "constants", range(32))
    with torch.no_grad():
        pictures = policy.decode(sampled(policy, world.base, prompts, noise, sampling).clean)
        scores = world.reward.parts(pictures, prompts)
    for column, constants in zip(scores.T, cfg.reward.parts.values(), strict=True):
        assert abs(column.mean() - constants.mean) < 4 * constants.std / 32**0.5
        assert column.std().item() == pytest.approx(constants.std, rel=0.35)
    assert torch.corrcoef(torch.stack([proxy(pictures, 95), kilobytes(pictures, 95)]))[0, 1] > 0.95


# bad input

BRIGHT = {"_target_": "worlds.tiny_policy.Brightness", "name": "bright"}


@pytest.fixture(autouse=True)
def brightness_is_permitted():
    with permitted([BRIGHT["_target_"]]):
        yield


def test_a_part_is_the_flat_config_of_its_reward_and_its_constants():
    parts = {"bright": BRIGHT | {"weight": 2.0, "mean": 0.5, "std": 0.1}}
    nested = {"_target_": "rdt.rewards.mixture.mixture", "_recursive_": False, "normalise": "zscore", "parts": parts}
    built = mixture(parts={"inner": nested | {"weight": 3.0}}, normalise="raw")
    expected = 3 * (2 * (Brightness()(images(), PROMPTS * 2) - 0.5) / 0.1)
    torch.testing.assert_close(built(images(), PROMPTS * 2), expected)


@pytest.mark.parametrize(
    ("parts", "normalise", "message"),
    [
        ({"a": BRIGHT | {"weight": 1.0}}, "rank", r"reward\.normalise=rank is not one of raw, zscore, group"),
        ({}, "raw", r"reward\.parts is empty"),
        ({"a": None}, "raw", r"reward\.parts\.a is not a reward; .* remove it with ~reward\.parts\.a"),
        ({"a": BRIGHT}, "raw", r"reward\.parts\.a has no weight; give reward\.parts\.a\.weight="),
        ({"a": BRIGHT | {"weight": 1.0}}, "zscore", r"reward\.parts\.a has no mean"),
        ({"a": BRIGHT | {"weight": 1.0, "mean": 0.1}}, "group", r"reward\.parts\.a has no std"),
        (
            {"a": BRIGHT | {"weight": 1.0, "mean": 0.1, "std": 0.0}},
            "zscore",
            r"reward\.parts\.a\.std=0\.0 must be greater than 0",
        ),
    ],
)
def test_an_impossible_mixture_names_the_wrong_key(parts, normalise, message):
    with pytest.raises(ValueError, match=message):
        mixture(parts=parts, normalise=normalise)


def test_a_part_that_is_not_finite_is_named():
    class Broken(Brightness):
        def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
            return super().forward(images, prompts).log() / 0

    both = Mixture({"bright": Term(Brightness(), 1.0), "broken": Term(Broken(), 1.0)}, "raw")
    with pytest.raises(Diverged, match="broken, a part of the reward, scored image 0 of the prompt 'anything' as -inf"):
        both(images(), ["anything"] * 6)
