"""The one command that rebuilds the bundle, from an empty folder to the acceptance table, two steps per stage."""

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


@pytest.fixture
def rehearsed(monkeypatch):
    """Runs the command with short stages; returns the names of the stages that trained at all."""

    def fit(names, plan, model, loss, *where):
        trained = []

        def counted(generator):
            trained.append(plan.name)
            return loss(generator)

        done = loop.fit(replace(plan, steps=2), model, counted, *where)
        names += trained[:1]
        return done

    def run(work: Path, out: Path) -> list[str]:
        names: list[str] = []
        for module in STAGES:
            monkeypatch.setattr(module, "fit", partial(fit, names))
        command = ["pretrain", "--work", str(work), "--out", str(out), "--threads", "1"]
        monkeypatch.setattr(sys, "argv", command)
        pretrain.main()
        return names

    monkeypatch.setattr(base, "POOL", 64)
    monkeypatch.setattr(acceptance, "table", partial(acceptance.table, prompts=2, images=4))
    monkeypatch.setattr(preference, "annotator_agreement", partial(preference.annotator_agreement, batches=2))
    return run


def contents(folder: Path) -> dict[Path, object]:
    """What every file holds; the header of safetensors is in no fixed order."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder): tensors(file) if file.suffix == ".safetensors" else file.read_bytes()
            for file in files}  # fmt: skip


def tensors(file: Path) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_one_command_rebuilds_every_bundled_file(rehearsed, tmp_path, capsys):
    assert rehearsed(tmp_path / "work", tmp_path / "out") == TRAINED
    assert "reconstructions read right" in capsys.readouterr().out
    assert contents(tmp_path / "out").keys() == contents(pretrain.WEIGHTS).keys()
    assert rehearsed(tmp_path / "work", tmp_path / "again") == []  # finished stages are restored
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bundle(rehearsed, tmp_path):
    for name in ("one", "two"):
        assert rehearsed(tmp_path / "work" / name, tmp_path / name) == TRAINED
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
