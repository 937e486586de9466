"""Budgets: read, refused, met by stopping, going back or adapting, and the same after a resume."""

import json

import pytest

from rdt.errors import UsageError
from rdt.training.constraints import UNBOUND, Budget, budgets, check, spelt_out
from rdt.training.launch import work
from worlds.smallest_run import adapter, minimal, rows


def test_a_budget_is_overdrawn_by_a_share_of_its_bound():
    kl = Budget("kl", None, 20.0, "warn", 1.0)
    assert [kl.overdrawn(value) for value in (10, 20, 25, 90)] == [-0.5, 0, 0.25, 1]
    assert Budget("entropy", 0.8, None, "warn", 1.0).overdrawn(0.6) == pytest.approx(0.25)
    assert Budget("gap", -0.1, 0.1, "warn", 1.0).overdrawn(-0.15) == pytest.approx(0.5)
    assert str(Budget("gap", -0.1, 0.1, "warn", 1.0)) == "constraint.gap.min=-0.1 constraint.gap.max=0.1"


def test_only_what_has_a_bound_is_watched():
    assert budgets({"kl": UNBOUND, "judge": "judge"}) == []
    assert budgets({"kl": UNBOUND | {"max": 0}}) == [Budget("kl", None, 0, "warn", 1.0)]
    assert budgets({"vendi": {"min": 1.5}}) == [Budget("vendi", 1.5, None, "warn", 1.0)]  # as +constraint.vendi.min=1.5


@pytest.mark.parametrize(
    "wrong, words",
    [({"max": "much"}, "max=much is not a number"), ({"action": "pray"}, "pray is not one of warn, stop"),
     ({"min": 2, "max": 1}, "min=2 exceeds")],
)  # fmt: skip
def test_a_budget_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        budgets({"kl": UNBOUND | wrong})


def test_the_short_form_asks_to_adapt():
    assert spelt_out("constraint.kl<=20") == ["constraint.kl.max=20", "constraint.kl.action=adapt"]
    assert spelt_out("constraint.entropy>=0.8") == ["constraint.entropy.min=0.8", "constraint.entropy.action=adapt"]
    assert spelt_out("constraint.kl.max=20") == ["constraint.kl.max=20"]


@pytest.mark.parametrize(
    "overrides, words",
    [(("method=draft", "constraint.kl.max=1"), "method=draft weighs no KL, method.kl_coef=None"),
     (("method.kl_coef=0", "constraint.entropy.min=0.8", "constraint.entropy.action=adapt"), "none to adapt"),
     (("constraint.entropy.min=0.8",), "evaluation.every=0"),
     (("constraint.gap.max=0.1", "constraint.judge=nobody", "evaluation.every=1"), "judges: gold, judge")],
)  # fmt: skip
def test_what_could_not_be_watched_is_refused_at_the_door(tmp_path, overrides, words):
    with pytest.raises(UsageError, match=words):
        check(minimal(tmp_path, *overrides))


def config(out, *constraint, iterations=4):
    watched = [f"constraint.{one}" for one in constraint]
    return minimal(
        out, "logger=csv", f"iterations={iterations}", "evaluation.every=1", "method.replay_ratio=1", *watched
    )


def ups(out):
    """The halves of the adapter that start at 0."""
    return {name: weight for name, weight in adapter(out).items() if "lora.up" in name}


def test_stop_ends_a_run_early_and_records_it(tmp_path, capsys):
    work(config(tmp_path / "out", "entropy.min=2", "entropy.action=stop"))
    assert len(rows(tmp_path / "out")) == 1
    assert json.loads((tmp_path / "out" / "result.json").read_text())["iterations"] == 1
    assert "constraint.entropy.min=2 is not met" in capsys.readouterr().out
    assert any(weight.any() for weight in ups(tmp_path / "out").values())
    work(config(tmp_path / "out", "entropy.min=2", "entropy.action=stop"))  # and has ended
    assert len(rows(tmp_path / "out")) == 1


@pytest.mark.slow
def test_rollback_ends_with_the_last_adapter_that_met_every_budget(tmp_path, capsys):
    """KL grows from 0 at the first iteration, where base and tuned are one: a bound that the second breaks."""
    work(config(tmp_path / "out", "kl.max=1e-12", "kl.action=rollback"))
    done = rows(tmp_path / "out")
    assert len(done) == 2 and float(done[0]["train/kl_nats"]) == 0 < float(done[1]["train/kl_nats"])
    assert "ends with the adapter of iteration 1" in capsys.readouterr().out
    work(minimal(tmp_path / "one", "logger=csv", "iterations=1", "evaluation.every=1", "method.replay_ratio=1"))
    back, one = ups(tmp_path / "out"), ups(tmp_path / "one")
    assert all(weight.equal(one[name]) for name, weight in back.items())
    work(config(tmp_path / "none", "entropy.min=2", "entropy.action=rollback"))
    assert not any(weight.any() for weight in ups(tmp_path / "none").values())


@pytest.mark.slow
def test_adapting_raises_the_coefficient_while_overdrawn_and_goes_on_after_a_resume(tmp_path):
    adapt = ("kl.max=1e-12", "kl.action=adapt", "kl.rate=0.5")
    work(config(tmp_path / "whole", *adapt))
    coefficients = [float(row["train/kl_coef"]) for row in rows(tmp_path / "whole")]
    assert coefficients[0] < coefficients[1] < coefficients[2] < coefficients[3]
    work(config(tmp_path / "on", *adapt, iterations=2))
    work(config(tmp_path / "on", *adapt))
    assert [float(row["train/kl_coef"]) for row in rows(tmp_path / "on")] == coefficients
    assert all(weight.equal(ups(tmp_path / "on")[name]) for name, weight in ups(tmp_path / "whole").items())
