"""Evaluating a finished run again returns its values bit for bit, and loses or doubles no point."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from rdt import evaluate, sample
from rdt import run as run_command
from rdt.config.compose import composed
from rdt.config.curve import points
from rdt.errors import UsageError
from rdt.report.compare import compare
from rdt.report.grids import grids_of
from rdt.report.read import read_runs
from rdt.result import label, read
from rdt.training import digests, finished
from rdt.training.experiment import built
from rdt.training.launch import launch
from rdt.training.pictures import GAP, HEAD
from rdt.training.record import add_points
from worlds.smallest_run import minimal
from worlds.wandb_files import merged, runs

CONSTANT = ("guidance=aig", "guidance.schedule=constant")


@pytest.fixture
def run(run_folder, tmp_path):
    """Return a copy of the finished run's folder."""
    ignored = shutil.ignore_patterns("wandb*", "checkpoints")
    return shutil.copytree(run_folder, tmp_path / "run", ignore=ignored)


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Return a function that runs a command in an empty folder as if its arguments were typed."""

    def call(module, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.entry()

    return call


def result(run):
    return json.loads((run / "result.json").read_text())


def guidance(*overrides):
    config = OmegaConf.to_container(composed("evaluate", *overrides).guidance, resolve=True)
    return {"name": config["name"]} | built(*points(config)).described


def titles(run):
    """Return, by title, the names of the pictures that the report shows."""
    (comparison,) = compare(read_runs([run])[0])
    return {grid.title: grid.path.stem for grid in grids_of(comparison, most=9)}


@pytest.mark.slow
def test_annealing_by_1_is_the_run_and_by_0_is_its_base_bit_for_bit(run, typed):
    before = result(run)
    typed(evaluate, "-m", f"run={run}", *CONSTANT, "guidance.curve=[0,1],[0.5]")  # a curve, and a point beside it
    after = result(run)
    own, none, full, half = after["points"]
    assert (own, after["base"]) == (before["points"][0], before["base"])
    assert none["per_prompt"] == before["base"]["per_prompt"]
    assert full["per_prompt"] == own["per_prompt"] != none["per_prompt"]
    assert 0 == none["kl_nats"]["mean"] < half["kl_nats"]["mean"]
    for kind in ("reward", "diversity", "fidelity", "kl_nats"):
        assert full[kind] == own[kind]  # the intervals and the paired differences too
    assert none["reward"]["hps"]["diff"] == {"mean": 0, "ci95": [0, 0]}
    pictures = {path.stem: path.read_bytes() for path in (run / "samples").glob("*.png")}
    assert pictures["aig-constant-weight-0"] == pictures["base"]
    assert pictures["aig-constant-weight-1"] == pictures["tuned"]
    assert titles(run) == {
        "base": "base", "sqdf cfg": "tuned",
        "sqdf aig constant weight=0": "aig-constant-weight-0", "sqdf aig constant weight=1": "aig-constant-weight-1",
        "sqdf aig constant weight=0.5": "aig-constant-weight-0.5",
    }  # fmt: skip
    assert all(point["label"] in (run / "report.html").read_text() for point in after["points"])
    logged = runs(run)  # one of job type "eval" for each job
    assert [found["run"][0]["job_type"] for found in logged] == ["eval", "eval"]
    assert merged(logged[1], "summary")["final/kl_nats"] == pytest.approx(half["kl_nats"]["mean"])
    assert {"front/table._type", "samples/aig-constant-weight-0.5._type"} <= set(merged(logged[1], "history"))


@pytest.mark.slow
def test_a_point_of_the_same_guidance_is_replaced_together_with_its_pictures(run, typed):
    before, pictures = result(run), sorted((run / "samples").iterdir())
    typed(evaluate, f"run={run}", "guidance=cfg")
    assert result(run) == before and sorted((run / "samples").iterdir()) == pictures


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["guidance=aig", "guidance.schedule=linear", "guidance.curve=[1]"], "guidance=aig has no knob to vary"),
        (["guidance=aig", "guidance.curve=[1,-1]"], "exponent=-1 must not be below 0"),
        (["guidance=cads", "guidance.curve=[-1]"], "scale=-1 must not be below 0"),
    ],
)
def test_an_invalid_curve_leaves_the_run_as_it_was(run, typed, capfd, overrides, words):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    one_line(lambda: typed(evaluate, f"run={run}", *overrides), capfd, words)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_points_added_at_the_same_time_are_all_kept(run):
    own = read(run).tuned
    new = [replace(own, guidance={"name": str(k)}) for k in range(16)]
    digest = digests.lora_digest(run / finished.LORA)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda point: add_points(run, [point], digest), new))
    points = read(run).points
    assert points[0] == own
    assert sorted(int(point.label) for point in points[1:]) == list(range(16))
    with pytest.raises(UsageError, match=r"^run=\S+ was trained further during this evaluation"):
        add_points(run, new[:1], "another")


def test_a_point_replaces_the_point_of_the_same_guidance(run):
    found = read(run)
    first, other = replace(found.tuned, n_per_prompt=7), replace(found.tuned, guidance={"name": "b"})
    assert found.with_point(first).points == (first,)
    assert found.with_point(other).points == (found.tuned, other)


def test_guidance_is_described_without_settings_that_have_no_effect():
    power = guidance("guidance=aig", "guidance.power=2")
    assert power == guidance("guidance=aig", "guidance.power=2.0", "guidance.constant=0.1", "guidance.fraction=0.9")
    assert power != guidance("guidance=aig", "guidance.power=3")
    labels = [label(guidance(*o)) for o in ((["guidance=cfg"]), ([*CONSTANT, "guidance.constant=1"]))]
    assert [label(power), *labels] == ["aig power exponent=2", "cfg", "aig constant weight=1"]


def overwritten(run, name, content):
    (run / name).write_bytes(content)


def changed(run, section, value):
    (run / "result.json").write_text(json.dumps(result(run) | {section: value}))


def reshaped(run):
    tensors = load_file(run / finished.LORA)
    save_file({key: value[:1].contiguous() for key, value in tensors.items()}, run / finished.LORA)


def renamed(run):
    tensors = load_file(run / finished.LORA)
    save_file({f"text_encoder.{key}": value for key, value in tensors.items()}, run / finished.LORA)


BREAKS = {
    "no config.yaml": lambda run: (run / "config.yaml").unlink(),
    "no result.json": lambda run: (run / "result.json").unlink(),
    "no lora": lambda run: shutil.rmtree(run / "lora"),
    "is not a folder": shutil.rmtree,
    "config.yaml is not the config": lambda run: overwritten(run, "config.yaml", b"[1, 2]"),
    "result.json: result.json is corrupt": lambda run: overwritten(run, "result.json", b'{"schema": 2'),
    "result.json: result.json lacks method": lambda run: overwritten(
        run, "result.json", b'{"schema": 2, "points": []}'
    ),
    "not a readable file of tensors": lambda run: overwritten(run, finished.LORA, b"\x00" * 40),
    "not a LoRA in diffusers' format": renamed,
    "LoRA does not fit": reshaped,
    "weights 00000000": lambda run: changed(run, "weights", "00000000"),
    "has schema 1; this version of rdt reads": lambda run: changed(run, "schema", 1),
    "other prompts": lambda run: changed(run, "base", result(run)["base"] | {"prompts": ["a cat", "a dog"]}),
}


@pytest.mark.parametrize("words", BREAKS)
def test_a_run_that_cannot_be_evaluated_is_refused_in_one_line(run, typed, capfd, words):
    BREAKS[words](run)
    if (run / "lora").is_dir():
        digests.seal_lora(run / "lora")  # the file is whole, and wrong
    one_line(lambda: typed(evaluate, f"run={run}"), capfd, words)


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (evaluate, [], "run= is missing"),
        (evaluate, ["run=nowhere", "guidance=nosuch"], "guidance=nosuch is not one of aig"),
        (evaluate, ["run=nowhere", "guidance=aig", "guidance.power=abc"], "guidance.power=abc is a text"),
        (
            evaluate,
            ["run=nowhere", "guidance=aig", "guidance.schedule=cosine"],
            "guidance.schedule=cosine is not one of",
        ),
        (evaluate, ["run=nowhere", "guidance=aig", "guidance.curve=3"], "guidance.curve=3 is an integer"),
        (run_command, ["guidance=aig", "guidance.schedule=linear", "guidance.curve=[1]"], "has no knob to vary"),
        (run_command, ["guidance=cads", "guidance.curve=[x]"], "guidance.curve=['x'] holds x, which is no number"),
        (evaluate, ["run=nowhere", "guidance=aig", "guidance.pwer=1"], "guidance.pwer"),
        (evaluate, ["run=nowhere", "guidance=aig"], "run=nowhere is not a folder"),
        (sample, ["run=nowhere"], "prompt= is missing"),
        (sample, ["run=nowhere", "prompt=a", "n=0"], "n=0 must be greater than 0"),
        (sample, ["run=nowhere", "prompt=a"], "run=nowhere is not a folder"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(typed, capfd, module, arguments, words):
    one_line(lambda: typed(module, *arguments), capfd, words)


def one_line(call, capfd, words):
    with pytest.raises(SystemExit) as stopped:
        call()
    out, err = capfd.readouterr()
    assert stopped.value.code == 1
    assert err.count("\n") == 1 and err.startswith("error: ") and words in err
    assert out == ""


def blocks(file, count=2):
    """Return the equally wide parts of a picture of samples, without the words above them."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture)[HEAD:]
    width = (pixels.shape[1] + GAP) // count
    return [pixels[:, k * width : (k + 1) * width - GAP] for k in range(count)]


@pytest.mark.slow
def test_sample_draws_base_and_tuned_at_equal_noise_and_prints_the_path(run, typed, capfd, tmp_path):
    typed(sample, f"run={run}", "prompt=a small blue ring", "n=3")
    (file,) = (run / "samples").glob("a-small-blue-ring-n3-s0-*.png")
    assert capfd.readouterr().out.split() == [str(file)]
    base, tuned = blocks(file)
    assert (base != tuned).any()
    named = tmp_path / "new" / "x.png"
    typed(sample, f"run={run}", "prompt=a small blue ring", "n=3", *CONSTANT, "guidance.curve=[0,1]", f"out={named}")
    first, none, full = blocks(named, 3)
    assert (first == base).all() and (none == base).all() and (full == tuned).all()
    typed(sample, f"run={run}", "prompt=a small blue ring", "n=3", "seed=1")
    (other,) = (run / "samples").glob("a-small-blue-ring-n3-s1-*.png")
    assert (blocks(other)[0] != base).any()


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Return the folder of a finished run that keeps a checkpoint of each of its three iterations."""
    out = tmp_path_factory.mktemp("long") / "out"
    every = ("trainer.keep=null", "trainer.checkpoint_every=1", "iterations=3", "method.replay_ratio=1", "logger=csv")
    launch(minimal(out, *every))
    return out


def test_the_path_of_a_training_is_a_front(long_run, typed, tmp_path):
    run = shutil.copytree(long_run, tmp_path / "run")
    before = result(run)
    typed(evaluate, f"run={run}", "checkpoints=all")
    after = result(run)
    own, first, second = after["points"]
    assert own == before["points"][0] and after["base"] == before["base"]
    assert [first["label"], second["label"]] == ["cfg iteration=1", "cfg iteration=2"]
    assert own["per_prompt"] != first["per_prompt"] != second["per_prompt"]
    assert (run / "samples" / "cfg-iteration-1.png").is_file()
    typed(evaluate, f"run={run}", "checkpoints=[3,1]")
    *others, last = result(run)["points"]
    assert last["per_prompt"] == own["per_prompt"]  # the checkpoint of the last iteration has the run's adapter
    assert others == after["points"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("[7]", "no checkpoint 7; all, or of 1, 2, 3"),
        ("some", "no checkpoint some; all, or of 1, 2, 3"),
        ("[]", "has no checkpoint []; all, or of 1, 2, 3"),
    ],
)
def test_checkpoints_that_are_not_there_are_one_line(long_run, typed, capfd, chosen, words):
    one_line(lambda: typed(evaluate, f"run={long_run}", f"checkpoints={chosen}"), capfd, words)


def test_a_run_without_earlier_checkpoints_says_how_to_keep_them(run, typed, capfd):
    words = "has no checkpoint before its last iteration, 2 (it has none); train with trainer.keep=null"
    one_line(lambda: typed(evaluate, f"run={run}", "checkpoints=all"), capfd, words)


def test_a_damaged_checkpoint_is_not_evaluated(long_run, typed, capfd, tmp_path):
    run = shutil.copytree(long_run, tmp_path / "run")
    (run / "checkpoints" / "000001" / digests.STATE).write_bytes(b"")
    one_line(lambda: typed(evaluate, f"run={run}", "checkpoints=all"), capfd, "is damaged")
