"""One network has several views: each gives its own output, and none changes the outputs or gradients of another."""

import dataclasses

import pytest
import torch
from torch import Tensor

from rdt.policy import CONSISTENCY, TUNED, Adapter, Policy
from worlds import tiny_policy

VIEWS = ("base", "tuned", "consistency")
X, T = tiny_policy.normal(2, *tiny_policy.LATENT), torch.tensor([901, 341])


@pytest.fixture
def policy() -> Policy:
    return tiny_policy.policy()


def run(policy: Policy, view: str, x: Tensor = X) -> Tensor:
    return getattr(policy, view)(x, T, policy.encode(tiny_policy.PROMPTS[:2]))


def look_ahead(view: str) -> tiny_policy.Graph:
    """Return a loss through two views in one graph: a tuned step, then a look-ahead by `view`."""
    return lambda policy: run(policy, view, X - run(policy, "tuned")).square().mean()


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return the largest relative error over the adapter's tensors."""
    assert ours.keys() == theirs.keys()
    return max(((ours[k] - theirs[k]).norm() / theirs[k].norm()).item() for k in ours)


def test_the_views_are_three_networks(policy: Policy) -> None:
    base, tuned, consistency = (run(policy, view) for view in VIEWS)
    assert not base.equal(tuned) and not base.equal(consistency) and not tuned.equal(consistency)


def test_a_fresh_tuned_view_is_the_base_bit_for_bit() -> None:
    policy = tiny_policy.policy(trained=False)
    assert run(policy, "tuned").equal(run(policy, "base"))


def test_the_base_is_the_network_without_any_adapter(policy: Policy) -> None:
    bare = tiny_policy.parts(consistency_rank=0)
    cond = policy.encode(tiny_policy.PROMPTS[:2])
    assert run(policy, "base").equal(bare.predict(bare.network.eval(), X, T, cond))


def test_a_view_does_not_depend_on_the_view_that_ran_before(policy: Policy) -> None:
    alone = {view: run(tiny_policy.policy(), view) for view in VIEWS}
    for view in (*VIEWS, *reversed(VIEWS), "tuned", "tuned", "base"):
        assert run(policy, view).equal(alone[view])


def test_only_the_trained_adapter_moves_in_a_step(policy: Policy) -> None:
    before = {name: p.clone() for name, p in policy.named_parameters()}
    outputs = {view: run(policy, view) for view in VIEWS}
    tiny_policy.gradients(policy, look_ahead("consistency"))
    torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, p in policy.named_parameters() if not p.equal(before[name])}
    assert moved and moved == {name for name in before if f".{TUNED}." in name}
    assert moved == {name for name, p in policy.named_parameters() if p.requires_grad}
    assert run(policy, "base").equal(outputs["base"])
    assert run(policy, "consistency").equal(outputs["consistency"])
    assert not run(policy, "tuned").equal(outputs["tuned"])


def test_other_views_between_forward_and_backward_leave_gradients_intact(policy: Policy) -> None:
    def plain(policy: Policy) -> Tensor:
        return run(policy, "tuned").square().mean()

    def interrupted(policy: Policy) -> Tensor:
        loss = plain(policy)
        with torch.no_grad():
            run(policy, "base")
        run(policy, "consistency")
        policy.scaled(0.5)(X, T, policy.encode(tiny_policy.PROMPTS[:2]))
        return loss

    expected, found = tiny_policy.gradients(policy, plain), tiny_policy.gradients(policy, interrupted)
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("view", ["base", "consistency"])
def test_gradient_flows_through_a_frozen_view_into_the_tuned_one(policy: Policy, view: str) -> None:
    through = tiny_policy.gradients(policy, look_ahead(view))
    assert all(gradient.norm() > 0 for gradient in through.values())
    assert all(p.grad is None for name, p in policy.named_parameters() if not p.requires_grad)
    assert any(f".{CONSISTENCY}." in name for name, _ in policy.named_parameters())


def test_a_gradient_through_two_views_is_the_derivative(policy: Policy) -> None:
    policy = policy.double()
    weight = next(p for name, p in policy.named_parameters() if p.requires_grad and ".lora_B." in name)

    def loss(policy: Policy) -> Tensor:
        x = X.double() - run(policy, "tuned", X.double())
        return run(policy, "consistency", x).square().mean()

    tiny_policy.gradients(policy, loss)
    direction, step = weight.grad / weight.grad.norm(), 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            ends.append(loss(policy).item())
            weight -= sign * step * direction
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(weight.grad.norm().item(), rel=1e-5)


@pytest.mark.parametrize("consistency_rank", [2, 5])
@pytest.mark.parametrize("view", VIEWS)
def test_checkpointed_blocks_give_the_same_gradients(view: str, consistency_rank: int) -> None:
    """The two views of one graph have adapters of equal rank, where a mix-up is silent, or of different ranks."""
    policy = tiny_policy.policy(consistency_rank=consistency_rank)
    expected = tiny_policy.gradients(policy, look_ahead(view))
    policy.checkpoint_blocks()
    assert difference(tiny_policy.gradients(policy, look_ahead(view)), expected) < 1e-5


def test_plain_checkpointing_would_silently_mix_up_the_views(policy: Policy) -> None:
    """Backward recomputes a block under the active adapter, with no error and an equal loss (huggingface/peft#2832)."""
    for weight in (p for name, p in policy.named_parameters() if f".{CONSISTENCY}." in name):
        weight.requires_grad_()  # with both adapters trained, torch cannot tell the two passes apart
    policy.never_merge()  # a merged layer is recomputed as another operation, which torch notices
    graph = look_ahead("consistency")
    expected, loss = tiny_policy.gradients(policy, graph), graph(policy)
    policy.checkpoint_blocks()
    assert difference(tiny_policy.gradients(policy, graph), expected) < 1e-5
    policy.network.enable_gradient_checkpointing()
    assert graph(policy).equal(loss)
    assert difference(tiny_policy.gradients(policy, graph), expected) > 0.01


def test_the_ends_of_the_scale_are_base_and_tuned_bit_for_bit(policy: Policy) -> None:
    cond = policy.encode(tiny_policy.PROMPTS[:2])
    assert policy.scaled(0)(X, T, cond).equal(run(policy, "base"))
    assert policy.scaled(1)(X, T, cond).equal(run(policy, "tuned"))


def test_a_scale_multiplies_the_update_of_every_weight(policy: Policy) -> None:
    halved = {name: w / 2 if "lora_B" in name else w for name, w in policy.lora().items()}
    found = policy.scaled(0.5)(X, T, policy.encode(tiny_policy.PROMPTS[:2]))
    policy.load_lora(halved)
    torch.testing.assert_close(found, run(policy, "tuned"))


def test_an_adapter_that_needs_no_gradient_is_merged_and_gives_the_same_output(policy: Policy) -> None:
    beside = {view: run(policy, view).detach() for view in ("tuned", "consistency")}
    with torch.no_grad():
        merged = {view: run(policy, view) for view in beside}
    for view, output in beside.items():
        torch.testing.assert_close(merged[view], output)
    policy.never_merge()
    with torch.no_grad():
        for view in beside:
            torch.testing.assert_close(run(policy, view), merged[view])
    assert not run(policy, "tuned").equal(merged["tuned"])  # rounding tells that the first was merged


def test_merging_writes_to_no_weight_and_follows_the_adapter(policy: Policy) -> None:
    before = {name: weight.clone() for name, weight in policy.network.state_dict().items()}
    with torch.no_grad():
        first = run(policy, "tuned")
        assert policy.network.state_dict().keys() == before.keys()
        assert all(weight.equal(before[name]) for name, weight in policy.network.state_dict().items())
        for weight in (p for p in policy.parameters() if p.requires_grad):
            weight.mul_(1.5)
        second = run(policy, "tuned")
    assert not second.equal(first)
    torch.testing.assert_close(second, run(policy, "tuned").detach())


@pytest.mark.parametrize("view", VIEWS)
def test_the_adapter_has_the_same_gradient_merged_and_beside_the_weights(policy: Policy, view: str) -> None:
    merged = tiny_policy.gradients(policy, look_ahead(view))
    policy.never_merge()
    assert 0 < difference(tiny_policy.gradients(policy, look_ahead(view)), merged) < 1e-5


def test_a_merged_view_passes_the_gradient_of_its_input_on(policy: Policy) -> None:
    def slope() -> Tensor:
        x = X.clone().requires_grad_()
        return torch.autograd.grad(run(policy, "consistency", x).square().sum(), x)[0]

    merged = slope()
    policy.never_merge()
    torch.testing.assert_close(merged, slope())


def test_an_adapter_survives_saving_and_loading(policy: Policy) -> None:
    fresh = tiny_policy.policy(trained=False)
    fresh.load_lora(policy.lora())
    assert run(fresh, "tuned").equal(run(policy, "tuned"))
    assert all(weight.equal(fresh.lora()[name]) for name, weight in policy.lora().items())
    assert {name for name, p in fresh.named_parameters() if p.requires_grad} == {
        name for name, _ in fresh.named_parameters() if f".{TUNED}." in name
    }


def test_an_adapter_of_other_shapes_or_names_is_refused(policy: Policy) -> None:
    before = run(policy, "tuned")
    incomplete = dict(list(policy.lora().items())[1:])
    for weights in (tiny_policy.policy(rank=3).lora(), incomplete, {**policy.lora(), "other": X}):
        with pytest.raises(ValueError, match=r"^LoRA does not fit this model: .*$") as caught:
            policy.load_lora(weights)
        assert "\n" not in str(caught.value)
    assert run(policy, "tuned").equal(before)


def test_the_consistency_view_is_refused_without_its_adapter() -> None:
    policy = tiny_policy.policy(consistency_rank=0)
    assert not policy.has_consistency and tiny_policy.policy().has_consistency
    with pytest.raises(ValueError, match="no consistency adapter; set method"):
        run(policy, "consistency")


def test_each_prompt_is_encoded_once() -> None:
    encoded: list[str] = []
    parts = tiny_policy.parts()
    recorded = dataclasses.replace(parts, encode=lambda prompts: (encoded.extend(prompts), parts.encode(prompts))[1])
    policy = Policy(recorded, Adapter(2, 2, tiny_policy.TARGETS))
    a, b, c = tiny_policy.PROMPTS
    found = [policy.encode(prompts).embeds for prompts in ([a, b, a], [b, c], [c, a])]
    assert encoded == [a, b, c]
    for prompts, embeds in zip(([a, b, a], [b, c], [c, a]), found, strict=True):
        assert embeds.equal(parts.encode(prompts).embeds) and not embeds.requires_grad


def test_passes_are_counted_per_sample(policy: Policy) -> None:
    for view in VIEWS:
        run(policy, view)
    assert policy.passes == len(VIEWS) * len(X)
    assert policy.flops_per_pass > 0
    assert policy.passes == len(VIEWS) * len(X)


def test_images_are_in_range_and_differentiable(policy: Policy) -> None:
    x0 = (10 * X).requires_grad_()
    images = policy.decode(x0)
    images.sum().backward()
    assert images.shape == (2, 3, 4, 4) and images.min() >= 0 and images.max() <= 1 and x0.grad.any()


def test_checkpointed_blocks_recompute_under_the_same_scale(policy: Policy) -> None:
    cond = policy.encode(tiny_policy.PROMPTS[:2])

    def graph(policy: Policy) -> Tensor:
        return policy.scaled(0.5)(X, T, cond).square().mean()

    expected = tiny_policy.gradients(policy, graph)
    policy.checkpoint_blocks()
    assert difference(tiny_policy.gradients(policy, graph), expected) < 1e-5


def test_noise_has_the_shape_of_the_latents_and_is_keyed_by_seed_purpose_and_sample(policy: Policy) -> None:
    noise = policy.noise(3, "train", [5, 8]).initial()
    assert noise.shape == (2, *tiny_policy.LATENT) and noise[1:].equal(policy.noise(3, "train", [8]).initial())
    others = [policy.noise(4, "train", [5]), policy.noise(3, "other", [5]), policy.noise(3, "train", [6])]
    assert not any(other.initial().equal(noise[:1]) for other in others)


def test_a_snapshot_is_the_tuned_view_bit_for_bit_until_that_is_trained_further(policy: Policy) -> None:
    policy.keep("old")
    before = run(policy, "tuned")
    assert policy.view("old")(X, T, policy.encode(tiny_policy.PROMPTS[:2])).equal(before)
    tiny_policy.disturb(policy, seed=2)
    assert policy.view("old")(X, T, policy.encode(tiny_policy.PROMPTS[:2])).equal(before)
    assert not run(policy, "tuned").equal(before)
    policy.keep("old")
    assert policy.view("old")(X, T, policy.encode(tiny_policy.PROMPTS[:2])).equal(run(policy, "tuned"))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_snapshot_leaves_every_view_and_the_gradient_as_they_are(policy: Policy, checkpointed: bool) -> None:
    def loss(policy: Policy) -> Tensor:
        found = run(policy, "tuned")
        if policy.snapshots:
            with torch.no_grad():
                policy.view("old")(X, T, policy.encode(tiny_policy.PROMPTS[:2]))
        return found.square().mean()

    if checkpointed:
        policy.checkpoint_blocks()
    outputs, expected = {view: run(policy, view) for view in VIEWS}, tiny_policy.gradients(policy, loss)
    state = torch.random.get_rng_state()
    policy.keep("old")
    assert torch.random.get_rng_state().equal(state)
    assert all(run(policy, view).equal(output) for view, output in outputs.items())
    found = tiny_policy.gradients(policy, loss)
    assert found.keys() == expected.keys() and all(found[name].equal(slope) for name, slope in expected.items())


def test_blending_moves_both_factors_exactly(policy: Policy) -> None:
    policy.keep("ema")
    kept = {name: weight.clone() for name, weight in policy.lora("ema").items()}
    tiny_policy.disturb(policy, seed=2)
    policy.blend("ema", 1.0)
    assert all(weight.equal(kept[name]) for name, weight in policy.lora("ema").items())
    policy.blend("ema", 0.75)
    for name, weight in policy.lora("ema").items():
        torch.testing.assert_close(weight, 0.75 * kept[name] + 0.25 * policy.lora()[name])
    policy.blend("ema", 0.0)
    assert all(weight.equal(policy.lora()[name]) for name, weight in policy.lora("ema").items())


def test_a_snapshot_stands_in_for_the_trained_adapter_and_gives_its_place_back(policy: Policy) -> None:
    policy.keep("old")
    old = run(policy, "tuned")
    tiny_policy.disturb(policy, seed=2)
    new, cond = run(policy, "tuned"), policy.encode(tiny_policy.PROMPTS[:2])
    with policy.standing_in("old"):
        assert run(policy, "tuned").equal(old) and policy.scaled(1.0)(X, T, cond).equal(old)
    assert run(policy, "tuned").equal(new) and policy.view("old")(X, T, cond).equal(old)
    with policy.standing_in(None):
        assert run(policy, "tuned").equal(new)


def test_the_digest_of_the_network_depends_on_no_adapter_but_the_one_that_it_names(policy: Policy) -> None:
    found = policy.digest()
    policy.keep("old")
    kept = policy.digest("old")
    assert policy.digest() == found != kept
    tiny_policy.disturb(policy, seed=2)
    assert (policy.digest(), policy.digest("old")) == (found, kept)
    policy.keep("old")
    assert policy.digest("old") != kept
    assert Policy(tiny_policy.parts(), Adapter(4, 4, ("to_q",))).digest() == found


def test_an_unknown_snapshot_and_a_name_that_is_taken_are_refused_in_one_line(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"^the policy has no snapshot old; it has none$"):
        policy.view("old")
    with pytest.raises(ValueError, match=f"^snapshot {CONSISTENCY}: the network has another adapter of that name$"):
        policy.keep(CONSISTENCY)
