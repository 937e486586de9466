"""A target of a config is looked up, and so are its arguments, without importing it."""

import sys

import pytest
from omegaconf import OmegaConf

from rdt.config import arguments, imports

GOOD = """
import json
class Method: pass
try:
    from fractions import Fraction as Ratio
except ImportError:
    Ratio = None
one, two = 1, 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    imports._fault.cache_clear()
    imports._Source.of.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (GOOD, "plug.Method", None),
        (GOOD, "plug.Ratio", None),
        (GOOD, "plug.two", None),
        (GOOD, "plug.Metod", "plug.py has no Metod; did you mean Method?"),
        (GOOD, "plug", "a target is a dotted path"),
        (GOOD, "nosuch.Method", "there is no module nosuch on the path"),
        ("def f(:\n", "plug.f", "line 1 is not valid Python"),
        ("import nosuch\ndef f(): pass\n", "plug.f", "plug.py imports nosuch, which is not installed"),
        ("from os import *\n", "plug.anything", None),
        ("raise SystemExit('imported')\ndef f(): pass\n", "plug.f", None),
        (GOOD, 3, "a target is a dotted path"),
        (GOOD, "plug..x", "a target is a dotted path"),
    ],
)
def test_a_target_is_found_or_the_reason_is_given(source, target, reason, folder):
    (folder / "plug.py").write_text(source)
    found = imports.fault(target)
    assert found is None if reason is None else reason in found
    assert "plug" not in sys.modules


def test_every_fault_is_named_by_its_key():
    tree = {
        "a": {"_target_": "nosuch.X"},
        "b": [{"c": {"_target_": "rdt.errors.nosuch"}}, {"_target_": "rdt.errors.flat"}],
    }
    keys = [fault.partition("=")[0] for fault in imports.faults(tree)]
    assert keys == ["a._target_", "b.0.c._target_"]


@pytest.mark.parametrize(
    ("target", "taken", "refused"),
    [
        ("rdt.methods.sqdf.SQDF", ["gamma", "lr", "weight_decay"], ["gama", "x"]),  # its own and its bases'
        ("rdt.methods.bbo.build", ["queries"], []),
        ("rdt.guidance.ClassifierFree", ["scale"], ["foo"]),  # the fields of a dataclass
        ("rdt.rollout.Sampling", ["num_steps", "eta", "guidance_scale"], ["steps"]),
    ],
)
def test_the_arguments_of_a_target_are_read_in_its_source(target, taken, refused):
    found = arguments.accepted(target)
    assert found is None or (set(taken) <= found and not found & set(refused))
    assert found is not None or not refused


def test_a_key_that_is_added_must_be_an_argument():
    cfg = OmegaConf.create(
        {"guidance": {"_target_": "rdt.guidance.ClassifierFree", "name": "cfg", "scael": 1}, "model": {"lora": {}}}
    )
    faults = list(arguments.unknown(cfg, ["+guidance.scael=1", "+model.lora.x=2", "guidance.scale=3", "+other.key=4"]))
    assert faults == [
        "guidance.scael=1: rdt.guidance.ClassifierFree has no argument scael; did you mean guidance.scale?",
        "model.lora.x=2: rdt.policy.Adapter has no argument x",
    ]


DECLARED = """
from rdt.rewards.base import Reward as Base
class Blind(Base):
    differentiable = False
class Child(Blind): pass
class Seeing(Blind):
    differentiable: bool = True
class Computed(Blind):
    def __init__(self): self.differentiable = True
class Property(Blind):
    @property
    def differentiable(self): return True
def made(): return Blind()
"""


@pytest.mark.parametrize(
    ("name", "value"),
    {"Blind": False, "Child": False, "Seeing": True, "Base": True, "Computed": None, "Property": None, "made": None,
     "nosuch": None}.items(),
)  # fmt: skip
def test_a_declared_attribute_is_read_without_an_import(name, value, folder):
    (folder / "plug.py").write_text("raise SystemExit('imported')\n" + DECLARED)
    assert imports.class_constant(f"plug.{name}", "differentiable") is value and "plug" not in sys.modules
