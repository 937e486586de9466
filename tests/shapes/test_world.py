"""The grammar, the renderer, the utility and the fit of the nearest render keep their laws."""

import pytest
import torch

from rdt.shapes import grammar, world
from rdt.shapes.attributes import ATTRIBUTES, CARDINALITIES, FREE, NAMES, STATEABLE
from rdt.shapes.nearest import nearest_render
from rdt.shapes.render import distances, opacity, render


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def renders(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random modes (count, 6) and a render of each, (count, 3, 32, 32)."""
    modes = world.random_modes(count, stream(seed))
    return modes, render(world.random_scene(modes, stream(seed + 1)))


def plain(modes: torch.Tensor) -> world.Scene:
    """Return the scenes of modes without jitter, at a medium finish."""
    return world.scene(modes, torch.zeros(len(modes), 5), torch.full((len(modes), 3), 0.5))


def cover(scene: world.Scene) -> torch.Tensor:
    """Return the share of each pixel that the object covers."""
    return opacity(scene, distances(scene))


def residual(images: torch.Tensor, modes: torch.Tensor) -> torch.Tensor:
    """Return the distance to the nearest render, from a medium finish on."""
    return nearest_render(images, modes, torch.full((len(modes), 3), 0.5), steps=6).residual


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
    fit, validation = grammar.split("fit"), grammar.split("validation")
    assert not set(fit) & set(validation) and sorted(fit + validation) == sorted(train) and len(validation) == 147
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
    assert distance[~same].min() > 0.3


def test_the_renderer_is_differentiable_in_every_factor():
    modes = world.random_modes(8, stream(3))
    jitter = 0.5 * torch.rand(8, 5, generator=stream(4), dtype=torch.float64) - 0.25
    finish = 0.25 + 0.5 * torch.rand(8, 3, generator=stream(6), dtype=torch.float64)
    factors = torch.cat([jitter, finish], dim=1).requires_grad_()
    picture = torch.randn(8, 3, 32, 32, generator=stream(5), dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (render(world.scene(modes, x[:, :5], x[:, 5:])).double() * picture).sum()

    (gradient,) = torch.autograd.grad(value(factors), factors)
    assert (gradient.abs() > 0).all()
    for index in range(8):
        probe = torch.zeros_like(factors)
        probe[index, index] = 1e-4
        difference = (value(factors + probe) - value(factors - probe)) / 2e-4
        assert difference.item() == pytest.approx(gradient[index, index].item(), rel=0.03, abs=0.03)


def test_each_factor_of_the_finish_changes_what_it_names():
    modes = torch.tensor([[1, 4, 2, 1, 1, 1]]).expand(2, -1)  # a large blue square on gray
    for k in range(3):
        finish = torch.full((2, 3), 0.5)
        finish[:, k] = torch.tensor([0.0, 1.0])
        scene = world.scene(modes, torch.zeros(2, 5), finish)
        low, high = render(scene)
        middle = (slice(None), 15, 15)
        if k == 0:
            assert high[middle].amax() > low[middle].amax() and high[middle].amin() < low[middle].amin()
        if k == 1:
            soft, hard = cover(scene)
            assert ((soft > 0.05) & (soft < 0.95)).sum() > 2 * ((hard > 0.05) & (hard < 0.95)).sum()
        if k == 2:
            inside = cover(scene)[0] > 0.95
            upper, lower = inside.triu(1).flip(1).tril(-1).any(), inside.any()
            assert upper or lower
            corners = (high - low).mean(0)
            assert corners[10, 10] > 0.05 and corners[20, 20] < -0.05  # light from the upper left


@pytest.mark.parametrize("shape", range(6))
def test_one_connected_object_wholly_inside(shape: int):
    modes = torch.tensor([[shape, 0, size, v, h, 0] for size in range(3) for v in range(3) for h in range(3)])
    for mask in cover(plain(modes)) > 0.5:
        assert mask.any()
        assert not torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()
        assert components(mask) == 1


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
    finish = torch.tensor([0.5, 1.0, 0.0]).expand(64, -1)  # crisp and without light
    scene = world.scene(modes, torch.zeros(64, 5), finish)
    images, share = render(scene), cover(scene)
    corner, deepest = images[:, :, 0, 0], share.flatten(1).argmax(1)
    inside = images.flatten(2)[torch.arange(64), :, deepest]
    thick = share.flatten(1).amax(1) > 0.99  # a small ring is thinner than its soft edge
    assert (inside - scene.foreground)[thick].abs().max() < 0.03 and thick.sum() > 30
    assert (corner - scene.background).abs().max() < 0.03
    colours = world.rgb(world.HUES, torch.full((6,), 0.6), torch.full((6,), 0.825))
    assert torch.cdist(inside[thick], colours).argmin(1).equal(modes[thick, 1])


def test_bigger_is_bigger_and_further_down_is_further_down():
    modes = torch.tensor([[0, 0, size, 1, 1, 0] for size in range(3)] + [[0, 0, 0, v, 1, 0] for v in range(3)])
    share = cover(plain(modes))
    area = share[:3].sum((1, 2))
    height = (share[3:].sum(2) * torch.arange(32)).sum(1) / share[3:].sum((1, 2))
    assert (area.diff() > 0).all() and (height.diff() > 0).all()


def test_utility_is_bounded_and_reached():
    modes = torch.cartesian_prod(*map(torch.arange, CARDINALITIES))
    best = torch.full((len(modes), 3), 0.8)
    for prompt in grammar.all_prompts()[::37]:
        u = world.utility(modes, best, grammar.stated([prompt]).expand_as(modes))
        assert u.min() >= 0 and u.max() == pytest.approx(1.0)


def test_utility_by_hand():
    mode = torch.tensor([[0, 0, 2, 1, 1, 2]])  # large red circle in the middle, on white: the annotator's favourite
    best = torch.full((1, 3), 0.9)
    cases = {
        "a shape": 1.0,
        "a red circle": 1.0,
        "a blue circle": 0.5 * 0.5 + 0.5,
        "a blue square on black": 0.5,
        "a small shape": 0.5,
    }
    for prompt, expected in cases.items():
        assert world.utility(mode, best, grammar.stated([prompt])).item() == pytest.approx(expected)
    dull, flat = torch.tensor([[4, 3, 0, 0, 0, 0]]), torch.tensor([[0.35, 0.0, 1.1]])  # a small green cross on black
    taste = (0.3 + 0.2 + 0.0 + 0.3 + 0.3 + 0.2) / 6
    expected = 0.5 + 0.25 * taste + 0.25 * (0.5 + 0.0 + 0.7) / 3
    assert world.utility(dull, flat, grammar.stated(["a shape"])).item() == pytest.approx(expected)


def test_quality_rises_stays_and_falls_beyond_natural_images():
    along = torch.linspace(-0.2, 1.5, 171)[:, None].expand(-1, 3)
    value = world.quality(along)
    assert value[:20].max() == 0 and value[-1] == 0 and value.max() == 1
    assert (value[20:89].diff() > 0).all() and (value[91:120] == 1).all() and (value[121:152].diff() < 0).all()
    uniform = world.quality(world.random_finish(100_000, stream()))
    assert uniform.mean().item() == pytest.approx(0.65, abs=0.003)


def test_clean_renders_are_natural_and_noise_is_not():
    modes, images = renders(64)
    assert residual(images, modes).max() < 0.01
    assert residual(torch.rand(images.shape, generator=stream()), modes).min() > 0.2


def test_the_finish_of_a_render_is_read_also_beyond_natural_images():
    modes = world.random_modes(64, stream(5))
    modes[:, 2] = 2  # large objects show their finish best
    for finish in (torch.rand(64, 3, generator=stream(6)), torch.tensor([1.1, 1.25, 1.3]).expand(64, -1)):
        images = render(world.scene(modes, torch.zeros(64, 5), finish))
        found = nearest_render(images, modes, torch.full((64, 3), 0.7), steps=6)
        assert (found.finish - finish).abs().mean() < 0.02


def test_images_with_coloured_waves_are_unnatural():
    modes, images = renders(32)
    waves = torch.sin(torch.linspace(0, 12, 32))[None, :, None] * torch.tensor([1.0, -0.5, 0.2])[:, None, None]
    assert residual((images + 0.4 * waves).clamp(0, 1), modes).min() > 0.1


def test_the_residual_of_a_noisy_render_is_the_size_of_the_noise():
    modes, images = renders(32)
    noise = 0.05 * torch.randn(images.shape, generator=stream(9))
    assert (residual(images + noise, modes) - noise.square().mean((1, 2, 3)).sqrt()).abs().max() < 3e-3


def test_a_wrongly_read_mode_leaves_a_residual():
    modes, images = renders(32)
    wrong = modes.clone()
    wrong[:, 3] = (wrong[:, 3] + 1) % 3
    assert residual(images, wrong).min() > 0.02
