"""The notation of rules: what each allows, how a refusal reads, and that every rule in conf/ can be read."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rdt.config.compose import composed, conf_dir
from rdt.config.plan import leaves
from rdt.config.rules import conditions, parsed_rule, rules_of, without_rules

GROUPS = ("method", "reward", "model", "guidance")
CHOICES = [f"{group}={file.stem}" for group in GROUPS for file in sorted(Path(conf_dir(), group).glob("*.yaml"))]


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("greater than 0", [1, 0.5], [0, -1, float("nan"), "one", True, None]),
        ("at least 2", [2, 3], [1]),
        ("at most 1", [1, -5], [1.5]),
        ("from 1 to 15", [1, 15], [0, 16]),
        ("at least 1 and a multiple of 16", [16, 64], [0, 24]),
        ("a divisor of 40", [8, 40], [7]),
        ("greater than 0 and at most 1", [0.5, 1], [0, 1.5]),
        ("a | b | off", ["a", "off"], ["c", None]),
        ("a (needs model.x) | b", ["a", "b"], ["c"]),
        ("an integer greater than 0 or null", [3, None], [0, 1.5, "many"]),
        ("a number or null", [2.0, 2, None], ["two", True]),
        ("at least 0 and less than 1", [0, 0.5], [1, -1]),
        ("from 0 to 9223372036854775807", [2**63 - 1], [2**63]),
        ("a text of 1 to 3 characters", ["a", "abc"], ["", "abcd", 1, None]),
        ("a list of texts of 1 to 3 characters", [["a"], []], [["abcd"], [1], "a", [""], [None]]),
        ("a list of 2 integers greater than 0", [[1, 2]], [[1], [0, 1], [1, 2, 3], [1.5, 2], [True, 1], 3]),
        ("a | b or null", ["a", None], ["c"]),
        ("a multiple of None", [1, 2], ["text"]),
        ("at least 1 (only with method.x=on|off)", [1], [0]),
        ("at least 1 (not with method.x=null)", [1], [0]),
    ],
)
def test_a_rule_allows_and_refuses(rule, good, bad):
    assert [parsed_rule(rule).refusal(value, rule) for value in good] == [None] * len(good)
    assert all(parsed_rule(rule).refusal(value, rule) for value in bad)


def test_a_refusal_is_the_rule_in_words():
    assert parsed_rule("at least 2").refusal(1, "at least 2") == "must be at least 2"
    assert parsed_rule("a | b").refusal("c", "a | b") == "is not one of a, b"
    assert parsed_rule("an integer or null").refusal("x", "") == "is a text, expected an integer"


def test_a_note_ends_every_refusal():
    rule = "a | b; c was dropped"
    assert parsed_rule(rule).refusal("c", rule) == "is not one of a, b; c was dropped"
    assert parsed_rule("at least 1; or else").refusal(0, "at least 1; or else") == "must be at least 1; or else"


def test_a_condition_is_read_and_left_out_of_messages():
    cfg = OmegaConf.create({"a": {"x": 0, "kind": "off", "rules": {"x": "at least 1 (only with a.kind=on)"}}})
    ((key, condition),) = conditions(cfg).items()
    assert (key, condition.key, condition.values) == ("a.x", "a.kind", ("on",))
    ((_, (rule, written)),) = rules_of(cfg).items()
    assert rule.refusal(0, written) == "must be at least 1"


def test_a_rule_refers_to_another_value_and_names_it():
    cfg = OmegaConf.create({"batch": 6, "part": {"size": 4, "rules": {"size": "a divisor of ${batch}"}}})
    ((key, (rule, written)),) = rules_of(cfg).items()
    assert (key, rule.refusal(3, written), rule.refusal(4, written)) == (
        "part.size", None, "must be a divisor of batch=6",
    )  # fmt: skip
    assert without_rules(cfg) == {"batch": 6, "part": {"size": 4}}


@pytest.mark.parametrize("text", ["positive", "greater than", "a number of things", "a |"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match="is not a rule"):
        parsed_rule(text)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_rule_in_conf_allows_the_default(choice):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", [choice])
    for key, (rule, written) in rules_of(cfg).items():
        assert rule.refusal(OmegaConf.select(cfg, key), written) is None, key
    referring = {"method.look_ahead", "model.lora.rank", "output_dir", "cache", "model.policy.setup.resolution"}
    assert set(rules_of(cfg)) <= {key for key, _ in leaves(cfg)} | referring
    group = choice.partition("=")[0]
    stated = OmegaConf.select(cfg, group).get("rules") or {}
    assert {f"{group}.{key}" for key in stated} <= set(rules_of(cfg)), "a rule for a key that is not there"


def test_a_config_composed_for_a_script_has_no_rules():
    assert "rules" not in composed("config").method


@pytest.mark.parametrize(
    ("written", "met", "unmet"),
    [
        ("(only with a.kind=on|1)", ["on", 1, 1.0], ["off", 2, None, True]),
        ("(not with a.kind=null|0|false)", ["on", 1, True], [None, 0, 0.0, False]),
    ],
)
def test_a_condition_holds_for_the_values_that_it_names_or_for_all_others(written, met, unmet):
    condition = parsed_rule(f"at least 1 {written}").condition
    assert all(map(condition.is_met, met)) and not any(map(condition.is_met, unmet))
