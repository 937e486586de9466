"""Constraints are parsed and checked, and met by stopping, rolling back or adapting, also after a resume."""

import pytest

from rdt import result
from rdt.config.compose import composed
from rdt.errors import UsageError
from rdt.sentinels import SENTINELS
from rdt.training.constraint_callback import quantities
from rdt.training.constraints import UNBOUNDED, Constraint, check_constraints, constraints_of, expand_shorthand
from rdt.training.launch import work
from worlds.smallest_run import adapter, minimal, rows


def test_a_violation_is_a_share_of_the_bound():
    kl = Constraint("kl", None, 20.0, "warn", 1.0)
    assert [kl.violation(value) for value in (10, 20, 25, 90)] == [-0.5, 0, 0.25, 1]
    assert Constraint("entropy", 0.8, None, "warn", 1.0).violation(0.6) == pytest.approx(0.25)
    assert Constraint("gap", -0.1, 0.1, "warn", 1.0).violation(-0.15) == pytest.approx(0.5)
    assert str(Constraint("gap", -0.1, 0.1, "warn", 1.0)) == "constraint.gap.min=-0.1 constraint.gap.max=0.1"


def test_only_a_quantity_with_a_bound_is_constrained():
    assert constraints_of({"kl": UNBOUNDED, "judge": "judge"}) == []
    assert constraints_of({"kl": UNBOUNDED | {"max": 0}}) == [Constraint("kl", None, 0, "warn", 1.0)]
    new = {"vendi": {"min": 1.5}}  # as +constraint.vendi.min=1.5 gives it
    assert constraints_of(new) == [Constraint("vendi", 1.5, None, "warn", 1.0)]


@pytest.mark.parametrize(
    "wrong, words",
    [({"max": "much"}, "max=much is not a number"), ({"action": "pray"}, "pray is not one of warn, stop"),
     ({"min": 2, "max": 1}, "min=2 exceeds")],
)  # fmt: skip
def test_an_invalid_constraint_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        constraints_of({"kl": UNBOUNDED | wrong})


def test_the_shorthand_stands_for_a_bound_and_the_action_adapt():
    assert expand_shorthand("constraint.kl<=20") == ["constraint.kl.max=20", "constraint.kl.action=adapt"]
    entropy = ["constraint.entropy.min=0.8", "constraint.entropy.action=adapt"]
    assert expand_shorthand("constraint.entropy>=0.8") == entropy
    assert expand_shorthand("constraint.kl.max=20") == ["constraint.kl.max=20"]


@pytest.mark.parametrize(
    "overrides, words",
    [(("method=draft", "constraint.kl.max=1"), "does not log train/kl_nats: its yaml states no plan.kl_nats"),
     (("method=grpo", "constraint.kl.max=1"), "does not log train/kl_nats: method.kl_coef=0.0 must be above 0"),
     (("method.kl_coef=0", "constraint.entropy.min=0.8", "constraint.entropy.action=adapt"), "coefficient to adapt"),
     (("constraint.entropy.min=0.8",), "evaluation.every=0"),
     (("constraint.gap.max=0.1", "constraint.judge=nobody", "evaluation.every=1"), "judges: gold, judge")],
)  # fmt: skip
def test_a_constraint_on_what_the_run_does_not_measure_is_refused(tmp_path, overrides, words):
    with pytest.raises(UsageError, match=words):
        check_constraints(minimal(tmp_path, *overrides))


def test_drift_is_measured_against_the_base():
    base = {"brightness": 0.5, "latent_rms": 1.0, "hps": 0.2, "judge": 0.2}
    tuned = {"brightness": 0.4, "latent_rms": 1.5, "hps": 0.6, "judge": 0.3}
    found = quantities(tuned, base, "hps", "judge")
    assert found["brightness"] == pytest.approx(0.1) and found["latent_norm"] == pytest.approx(0.5)
    assert found["gap"] == pytest.approx(0.3)
    assert "gap" not in quantities(tuned, base, "hps", "nobody")


@pytest.mark.parametrize("name", SENTINELS)
def test_every_sentinel_is_a_constraint_on_its_distance_from_the_base(name):
    base, tuned = (dict.fromkeys(SENTINELS, value) | {"latent_rms": 1.0} for value in (0.5, 0.3))
    assert quantities(tuned, base, "hps", "judge")[name] == pytest.approx(0.2)
    bound = constraints_of({name: UNBOUNDED | {"max": 0.1}})
    assert name in composed("config").constraint and bound[0].violation(0.2) == 1.0


def config(out, *constraint, iterations=4):
    constrained = [f"constraint.{one}" for one in constraint]
    return minimal(
        out, "logger=csv", f"iterations={iterations}", "evaluation.every=1", "method.replay_ratio=1", *constrained
    )


def ups(out):
    """Return the halves of the adapter that start at 0."""
    return {name: weight for name, weight in adapter(out).items() if "lora_B" in name}


def test_stop_ends_a_run_early_and_records_it(tmp_path, capsys):
    work(config(tmp_path / "out", "entropy.min=2", "entropy.action=stop"))
    assert len(rows(tmp_path / "out")) == 1
    assert result.read(tmp_path / "out").iterations == 1
    assert "constraint.entropy.min=2 is not met" in capsys.readouterr().out
    assert any(weight.any() for weight in ups(tmp_path / "out").values())
    work(config(tmp_path / "out", "entropy.min=2", "entropy.action=stop"))  # the resumed run has ended already
    assert len(rows(tmp_path / "out")) == 1


@pytest.mark.slow
def test_rollback_ends_with_the_last_adapter_that_met_all_constraints(tmp_path, capsys):
    """The KL is 0 in the first iteration, in which base and tuned are equal, so that the second violates the bound."""
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
def test_adapting_raises_the_coefficient_while_violated_and_continues_after_a_resume(tmp_path):
    adapt = ("kl.max=1e-12", "kl.action=adapt", "kl.rate=0.5")
    work(config(tmp_path / "whole", *adapt))
    coefficients = [float(row["train/kl_coef"]) for row in rows(tmp_path / "whole")]
    assert coefficients[0] < coefficients[1] < coefficients[2] < coefficients[3]
    work(config(tmp_path / "on", *adapt, iterations=2))
    work(config(tmp_path / "on", *adapt))
    assert [float(row["train/kl_coef"]) for row in rows(tmp_path / "on")] == coefficients
    assert all(weight.equal(ups(tmp_path / "on")[name]) for name, weight in ups(tmp_path / "whole").items())
