"""The grammar, the renderer, the utility and the residual of the embedded world keep their laws."""

import pytest
import torch

from rdt.shapes import grammar, world
from rdt.shapes.attributes import ATTRIBUTES, CARDINALITIES, FREE, NAMES, STATEABLE
from rdt.shapes.oracle import _residual
from rdt.shapes.render import opacity, render


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def renders(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random modes (count, 6) and a render of each, (count, 3, 32, 32)."""
    modes = world.random_modes(count, stream(seed))
    return modes, render(world.random_scene(modes, stream(seed + 1)))


def test_every_sentence_parses_back_to_what_it_states():
    prompts = grammar.all_prompts()
    assert len(prompts) == len(set(prompts)) == 7 * 7 * 4 * 4
    for prompt, row in zip(prompts, grammar.stated(prompts).tolist(), strict=True):
        states = {n: ATTRIBUTES[n][v] for n, v in zip(NAMES, row, strict=True) if v != FREE}
        assert set(states) <= set(STATEABLE)
        assert grammar.sentence(states) == prompt


def test_splits_are_disjoint_and_cover_all_prompts():
    train, held_out = grammar.split("train"), grammar.split("held_out")
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(grammar.all_prompts())
    assert len(held_out) == 196
    with pytest.raises(ValueError, match="split='test'"):
        grammar.split("test")


def test_a_word_outside_the_grammar_is_named():
    with pytest.raises(ValueError, match="'horse'"):
        grammar.stated(["a red circle", "a red horse"])


def test_modes_are_uniform():
    modes = world.random_modes(20_000, stream())
    for k, n in enumerate(CARDINALITIES):
        counts = torch.bincount(modes[:, k], minlength=n).double()
        expected = len(modes) / n
        assert ((counts - expected).square() / expected).sum() < 20.5  # chi squared, 5 degrees of freedom, 0.1 %


def test_modes_are_independent():
    modes = world.random_modes(20_000, stream()).double()
    correlation = torch.corrcoef(modes.T) - torch.eye(len(CARDINALITIES))
    assert correlation.abs().max() < 0.03


def test_renders_are_images_that_differ_between_modes():
    modes, images = renders(64)
    assert images.shape == (64, 3, 32, 32)
    assert images.min() >= 0 and images.max() <= 1
    distance = torch.cdist(images.flatten(1), images.flatten(1))
    same = (modes[:, None] == modes[None]).all(2)
    assert distance[~same].min() > 0.5


def test_the_renderer_is_differentiable_in_every_jitter():
    modes = world.random_modes(6, stream(3))
    jitter = (0.5 * torch.rand(6, 5, generator=stream(4), dtype=torch.float64) - 0.25).requires_grad_()
    picture = torch.randn(6, 3, 32, 32, generator=stream(5), dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (render(world.scene(modes, x)).double() * picture).sum()

    (gradient,) = torch.autograd.grad(value(jitter), jitter)
    assert (gradient.abs() > 0).all()
    for index in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)):
        probe = torch.zeros_like(jitter)
        probe[index] = 1e-4
        difference = (value(jitter + probe) - value(jitter - probe)) / 2e-4
        assert difference.item() == pytest.approx(gradient[index].item(), rel=0.02, abs=0.02)


@pytest.mark.parametrize("shape", range(6))
def test_one_connected_object_wholly_inside(shape: int):
    modes = torch.tensor([[shape, 0, size, v, h, 0] for size in range(3) for v in range(3) for h in range(3)])
    for cover in opacity(world.scene(modes, torch.zeros(27, 5))) > 0.5:
        assert cover.any()
        assert not torch.cat([cover[0], cover[-1], cover[:, 0], cover[:, -1]]).any()
        assert components(cover) == 1


def components(mask: torch.Tensor) -> int:
    """Count the 8-connected components by flood fill."""
    left, count = {tuple(p) for p in mask.nonzero().tolist()}, 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
    return count


def test_the_object_has_its_colour_and_the_background_its_gray():
    modes, _ = renders(64)
    scene = world.random_scene(modes, stream(1))
    images, cover = render(scene), opacity(scene)
    corner, deepest = images[:, :, 0, 0], cover.flatten(1).argmax(1)
    inside = images.flatten(2)[torch.arange(64), :, deepest]
    thick = cover.flatten(1).amax(1) > 0.99  # a small ring is thinner than its soft edge
    assert (inside - scene.foreground)[thick].abs().max() < 0.03 and thick.sum() > 30
    assert (corner - scene.background).abs().max() < 0.03
    assert torch.cdist(inside, world.rgb(world.HUES)).argmin(1).equal(modes[:, 1])


def test_bigger_is_bigger_and_further_down_is_further_down():
    modes = torch.tensor([[0, 0, size, 1, 1, 0] for size in range(3)] + [[0, 0, 0, v, 1, 0] for v in range(3)])
    cover = opacity(world.scene(modes, torch.zeros(6, 5)))
    area = cover[:3].sum((1, 2))
    height = (cover[3:].sum(2) * torch.arange(32)).sum(1) / cover[3:].sum((1, 2))
    assert (area.diff() > 0).all() and (height.diff() > 0).all()


def test_utility_is_bounded_and_reached():
    modes = torch.cartesian_prod(*map(torch.arange, CARDINALITIES))
    for prompt in grammar.all_prompts()[::37]:
        u = world.utility(modes, grammar.stated([prompt]).expand_as(modes))
        assert u.min() >= 0 and u.max() == pytest.approx(1.0)


def test_utility_by_hand():
    mode = torch.tensor([[0, 0, 2, 1, 1, 2]])  # large red circle in the middle, on white: the annotator's favourite
    cases = {
        "a shape": 1.0,
        "a red circle": 1.0,
        "a blue circle": 0.6 * 0.5 + 0.4,
        "a blue square on black": 0.4,
        "a small shape": 0.4,
    }
    for prompt, expected in cases.items():
        assert world.utility(mode, grammar.stated([prompt])).item() == pytest.approx(expected)
    dull = torch.tensor([[4, 3, 0, 0, 0, 0]])  # small green cross, top left, on black
    taste = (0.3 + 0.2 + 0.0 + 0.3 + 0.3 + 0.2) / 6
    assert world.utility(dull, grammar.stated(["a shape"])).item() == pytest.approx(0.6 + 0.4 * taste)


def test_clean_renders_are_natural_and_noise_is_not():
    modes, images = renders(64)
    assert _residual(images, modes, 4).max() < 0.01
    assert _residual(torch.rand(images.shape, generator=stream()), modes, 4).min() > 0.2


def test_images_with_coloured_waves_are_unnatural():
    modes, images = renders(32)
    waves = torch.sin(torch.linspace(0, 12, 32))[None, :, None] * torch.tensor([1.0, -0.5, 0.2])[:, None, None]
    assert _residual((images + 0.4 * waves).clamp(0, 1), modes, 4).min() > 0.1


def test_the_residual_of_a_noisy_render_is_the_size_of_the_noise():
    modes, images = renders(32)
    noise = 0.05 * torch.randn(images.shape, generator=stream(9))
    residual = _residual(images + noise, modes, 4)
    assert (residual - noise.square().mean((1, 2, 3)).sqrt()).abs().max() < 2e-3


def test_a_wrongly_read_mode_leaves_a_residual():
    modes, images = renders(32)
    wrong = modes.clone()
    wrong[:, 3] = (wrong[:, 3] + 1) % 3
    assert _residual(images, wrong, 4).min() > 0.03
