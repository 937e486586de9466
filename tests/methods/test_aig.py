"""method=aig is DRaFT+ with its own guidance, a curve along the annealing schedule that begins at the tuned policy."""

import json

import pytest
from hydra import compose, initialize_config_dir

from rdt import evaluate
from rdt.config.compose import conf_dir
from rdt.training import finished
from rdt.training.launch import work
from worlds.smallest_run import minimal


def test_it_tunes_as_draft_plus_does(tmp_path):
    """The runs have other names and evaluations, and are equal otherwise."""
    aig, plus = (minimal(tmp_path, f"method={name}") for name in ("aig", "draft_plus"))
    assert (aig.guidance.name, plus.guidance.name) == ("aig", "cfg")
    assert dict(aig.method) == dict(plus.method) | {"name": "aig"}


@pytest.mark.parametrize(
    ("overrides", "name", "curve"),
    [
        ([], "aig", [0, 1, 2, 4]),
        (["guidance.power=3"], "aig", [0, 1, 3, 4]),
        (["guidance.curve=[2]"], "aig", [2]),
        (["guidance.schedule=step"], "aig", None),
        (["guidance.schedule=linear"], "aig", None),
        (["guidance=aig"], "aig", [0, 1, 2, 4]),
        (["guidance=cfg"], "cfg", None),
        (["guidance=lora_scale"], "lora_scale", None),
        (["guidance=lora_scale", "guidance.curve=[0,1]"], "lora_scale", [0, 1]),
    ],
)
def test_the_command_line_takes_precedence(overrides, name, curve, tmp_path):
    guidance = minimal(tmp_path, "method=aig", *overrides).guidance
    assert (guidance.name, guidance.curve) == (name, curve)


def test_other_methods_keep_their_guidance(tmp_path):
    assert minimal(tmp_path, "method=draft_plus").guidance.name == "cfg"
    assert not minimal(tmp_path, "method=draft_plus", "guidance=aig").guidance.curve


@pytest.mark.slow
def test_a_run_records_the_curve_whose_first_point_is_the_tuned_policy(tmp_path):
    out = tmp_path / "out"
    work(minimal(out, "method=aig", "method.lr=0.05", "logger=csv", "iterations=1"))
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        evaluate.extend(finished.read_finished(out, compose("evaluate", ["guidance=cfg"]).guidance))
    *curve, tuned = json.loads((out / "result.json").read_text())["points"]
    assert [point["label"] for point in curve] == [f"aig power exponent={k}" for k in (0, 1, 2, 4)]
    assert curve[0]["per_prompt"] == tuned["per_prompt"]
    scores = [point["reward"]["hps"]["mean"] for point in curve]
    assert len(set(scores)) == 4
