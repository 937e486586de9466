"""Run the command that rebuilds the bundle, from an empty folder to the acceptance table, with two steps per stage."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rdt.shapes.pretrain import __main__ as pretrain
from rdt.shapes.pretrain import acceptance, autoencoder, base, consistency, flow, loop, oracle, preference

STAGES = (autoencoder, base, consistency, flow, oracle, preference)
TRAINED = ["oracle", "vae", "base", "decoder", "consistency", "flow", "hps", "judge"]


class ShortStages:
    """Stands in for `loop.fit`: two steps per stage; `trained` lists the stages that had a step left to train."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def fit(self, plan, model, loss, *where):
        started = []

        def counted(generator):
            started.append(plan.name)
            return loss(generator)

        done = loop.fit(replace(plan, steps=2), model, counted, *where)
        self.trained += started[:1]
        return done


@pytest.fixture
def rehearse(monkeypatch):
    """Return a function that runs the command with short stages and returns the names of those that trained."""
    monkeypatch.setattr(base, "POOL", 64)
    monkeypatch.setattr(acceptance, "table", partial(acceptance.table, prompts=2, images=4))
    monkeypatch.setattr(preference, "annotator_agreement", partial(preference.annotator_agreement, batches=2))

    def run(work: Path, out: Path) -> list[str]:
        short = ShortStages()
        for module in STAGES:
            monkeypatch.setattr(module, "fit", short.fit)
        monkeypatch.setattr(sys, "argv", ["pretrain", "--work", str(work), "--out", str(out), "--threads", "1"])
        pretrain.main()
        return short.trained

    return run


def contents(folder: Path) -> dict[Path, object]:
    """Return the contents of every file, of safetensors the tensors, since their headers have no fixed order."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        file.relative_to(folder): tensors(file) if file.suffix == ".safetensors" else file.read_bytes()
        for file in files
    }


def tensors(file: Path) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_one_command_rebuilds_every_bundled_file(rehearse, tmp_path, capsys):
    assert rehearse(tmp_path / "work", tmp_path / "out") == TRAINED
    assert "reconstructions read right" in capsys.readouterr().out
    assert contents(tmp_path / "out").keys() == contents(pretrain.WEIGHTS).keys()
    assert rehearse(tmp_path / "work", tmp_path / "again") == []  # finished stages are restored
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bundle(rehearse, tmp_path):
    for name in ("one", "two"):
        assert rehearse(tmp_path / "work" / name, tmp_path / name) == TRAINED
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
