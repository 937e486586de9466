"""Paths are recorded absolute, so that a run can be sampled, evaluated and continued from any folder."""

import shutil
from pathlib import Path

from rdt.training import finished, folder
from rdt.training.launch import work
from rdt.training.paths import make_absolute
from rdt.weights import BUNDLE
from worlds.smallest_run import minimal

FILES = ("prompts=file", "prompts.train_file=train.txt", "prompts.held_out_file=held_out.txt")


def recipe(out, *overrides):
    """Return a config that names its model and its prompts by relative paths, after they were made absolute."""
    cfg = minimal(out, "logger=csv", "model.policy.source=base", *FILES, *overrides)
    make_absolute(cfg)
    return cfg


def test_local_paths_become_absolute_and_sources_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = recipe("out", "resume=other/checkpoints/000002")
    assert cfg.model.policy.source == str(tmp_path / "base") and cfg.resume == str(
        tmp_path / "other/checkpoints/000002"
    )
    assert cfg.prompts.train_file == cfg.prompts.train.path == str(tmp_path / "train.txt")
    assert cfg.prompts.held_out.path == str(tmp_path / "held_out.txt")
    assert cfg.model.policy.consistency.startswith("bundled:") and recipe("out").resume == "auto"
    pickapic = minimal("out", "logger=csv", "prompts=pickapic")
    before = pickapic.copy()
    make_absolute(pickapic)
    assert pickapic == before


def test_a_run_is_read_and_continued_from_another_folder(tmp_path, monkeypatch):
    home, away = tmp_path / "home", tmp_path / "away"
    shutil.copytree(BUNDLE / "base", home / "base")
    away.mkdir()
    (home / "train.txt").write_text("a red circle\n")
    (home / "held_out.txt").write_text("a blue circle\na blue square\n")
    monkeypatch.chdir(home)
    work(recipe(home / "out"))
    monkeypatch.chdir(away)
    experiment = finished.read_finished("../home/out", None).experiment()
    assert experiment.prompt_sets["train"] == ["a red circle"]
    monkeypatch.chdir(home)
    again = recipe(home / "out", "iterations=3")
    monkeypatch.chdir(away)
    folder.check_folder(again, Path(again.output_dir))
