"""The points of a guidance config, and the curves that are refused."""

import pytest
from omegaconf import OmegaConf

from rdt.config.compose import composed
from rdt.config.curve import points
from rdt.errors import UsageError
from rdt.result import label
from rdt.training.experiment import built
from worlds.smallest_run import minimal


def config(*overrides):
    """Return the resolved guidance of a command line."""
    return OmegaConf.to_container(composed("evaluate", *overrides).guidance, resolve=True)


def labels(*overrides):
    """Return the label of every point."""
    guidance = config(*overrides)
    return [label({"name": guidance["name"]} | built(arguments).described) for arguments in points(guidance)]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["guidance=cfg"], ["cfg"]),
        (["guidance=aig"], ["aig power exponent=2"]),
        (["guidance=aig", "guidance.curve=[0,1,2.5]"], [f"aig power exponent={p}" for p in ("0", "1", "2.5")]),
        (["guidance=aig", "guidance.schedule=step", "guidance.curve=[.25,.5]"],
         ["aig step fraction=0.25", "aig step fraction=0.5"]),
        (["guidance=aig", "guidance.schedule=constant", "guidance.curve=[0]"], ["aig constant weight=0"]),
        (["guidance=lora_scale", "guidance.curve=[0,.5]"], ["lora_scale scale=0", "lora_scale scale=0.5"]),
        (["guidance=cads", "guidance.curve=[.1]"], ["cads tau1=0.6 tau2=0.9 scale=0.1 psi=1"]),
        (["guidance=lora_scale", "guidance.curve=[1.0000001,1.0000002]"],
         ["lora_scale scale=1.0000001", "lora_scale scale=1.0000002"]),
        (["guidance=lora_scale", "guidance.curve=[1,1.0]"], ["lora_scale scale=1"]),
        (["guidance=aig", "guidance.schedule=linear"], ["aig linear"]),
    ],
)  # fmt: skip
def test_a_curve_varies_the_knob_of_its_guidance(overrides, found):
    assert labels(*overrides) == found


def test_a_curve_does_not_change_the_config():
    guidance = config("guidance=aig", "guidance.curve=[1,3]")
    before = OmegaConf.to_yaml(guidance)
    points(guidance)
    assert OmegaConf.to_yaml(guidance) == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["guidance=aig", "guidance.schedule=linear", "guidance.curve=[1,2]"], "guidance.curve=[1, 2]: guidance=aig"),
        (["guidance=aig", "guidance.schedule=linear", "guidance.curve=[1]"], "schedule=power, step or constant"),
        (["guidance=aig", "guidance.curve=3"], "guidance.curve=3 is not a list; give its values as guidance.curve=[3]"),
        (["guidance=aig", "guidance.curve=[1,two]"], "holds two, which is no number"),
        (["guidance=aig", "guidance.curve=[true]"], "holds True, which is no number"),
    ],
)
def test_a_wrong_curve_is_refused_in_one_line(overrides, words):
    with pytest.raises(UsageError) as raised:
        points(config(*overrides))
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("sweep", "scale"), [("lora_scale", 1), ("guidance", 1)])
def test_a_curve_begins_with_the_point_that_stands_for_the_run(sweep, scale, tmp_path):
    """Its first point is the whole adapter, under the guidance of training."""
    guidance = OmegaConf.to_container(minimal(tmp_path, "logger=csv", f"sweep={sweep}").guidance)
    assert points(guidance)[0]["scale"] == scale
