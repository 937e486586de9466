"""The command `rdt.run`: wrong input gives one line with the value and leaves no files; plans need no weights."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdt import run
from rdt.weights import BUNDLE

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs `rdt run output_dir=out ...` in an empty folder: (exit status, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("RDT_TRACEBACK", raising=False)

    def answer(*overrides):
        monkeypatch.setattr(sys, "argv", ["rdt", "output_dir=out", "logger=csv", *overrides])
        status = 0
        try:
            run.entry()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return answer


def refused(answer, *words):
    """Assert that the answer is one line on stderr with all the words, a failing status, and no file."""
    status, out, err = answer
    assert status not in (0, None) and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert all(word in err for word in words), err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "override, words",
    {
        "method.klx=3": ["method.klx=3", "kl_coef"],
        "foo=1": ["foo=1", "method", "seed"],
        "method.module.gamma=0.5": ["method.module.gamma=0.5: there is no module in method"],
        "iteration=7": ["iteration=7", "did you mean iterations"],
        "method=nosuch": ["method=nosuch", "sqdf"],
        "method.kl_coef=abc": ["method.kl_coef=abc", "a text", "a number"],
        "iterations=1.5": ["iterations=1.5", "an integer"],
        "iterations=null": ["iterations=null", "an integer"],
        "dry_run=1": ["dry_run=1", "a truth value"],
        "tags=a": ["tags=a", "a list"],
        "model.lora=3": ["model.lora=3", "a section"],
        "method.lr=0": ["method.lr=0 must be greater than 0"],
        "method.capacity=100": ["method.capacity=100", "a multiple of batch_size=16"],
        "experiment=nosuch": ["experiment=nosuch is not one of"],
        "method.lr=nan": ["method.lr=nan is not a finite number"],
        "max_passes=abc": ["max_passes=abc is a text", "an integer"],
        "micro_batch_size=1.5": ["micro_batch_size=1.5 is a number", "an integer"],
        "guidance.scale=x": ["guidance.scale=x is a text", "a number"],
        "micro_batch_size=0": ["micro_batch_size=0", "greater than 0"],
        "method.replay=all": ["method.replay=all", "prioritized, uniform, on_policy"],
        "precision=fp8": ["precision=fp8", "fp32, bf16"],
        "method.lr=[1": ["method.lr=[1"],
        "devices=4096": ["devices=4096", "this machine"],
        "num_nodes=2": ["num_nodes=2", "MASTER_ADDR"],
        "resume=/nosuch": ["resume=/nosuch", "auto", "run.ckpt"],
        "output_dir=/dev/null/x": ["output_dir=/dev/null/x", "/dev/null is not a writable folder"],
        "model.checkpoints.hps.checkpoint=nosuch.pt": ["nosuch.pt", "bundled:<file>"],
        "model.policy.source=bundled:nosuch": ["bundled:nosuch", "rdt.shapes.pretrain"],
        "evaluation.judges.gold.oracle=/dev/null/oracle": ["/dev/null/oracle"],
    }.items(),
)
def test_a_bad_override_is_one_line(command, monkeypatch, override, words):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    refused(command(override), *words)


def test_work_that_does_not_divide_over_devices_is_one_line(command, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi: a machine of two cores
    refused(command("method=draft", "devices=2", "batch_size=3"), "batch_size=3", "a multiple of 2")
    refused(
        command("method=draft", "devices=2", "batch_size=4", "evaluation.prompts=1"),
        "evaluation.prompts=1",
        "2 or more",
    )


def test_only_a_scale_with_a_fallback_may_be_null(command):
    refused(command("guidance=lora_scale", "guidance.scale=null"), "guidance.scale=null is nothing, expected a number")
    assert command("guidance=cfg", "guidance.scale=null", "dry_run=true")[0] == 0


def test_an_optional_value_can_be_set_and_reset(command):
    status, plan, err = command("method=grpo", "micro_batch_size=4", "method.num_steps=null", "dry_run=true")
    assert (status, err) == (0, "") and " samples on 1 device(s), 4 at a time, 15 sampling steps" in plan


def test_a_sweep_does_not_push_all_its_jobs_to_one_repository(command):
    sweep = ("hydra.sweep.dir=sweep", "dry_run=true", "-m")
    status, _, err = command("seed=0,1", "push_to_hub=me/lora", *sweep)
    assert status == 1 and err.count("error: ") == 1 and not list(Path("sweep").glob("*/*"))
    assert "push_to_hub=me/lora would receive every job" in err and "hf upload me/lora <its output_dir>/lora" in err
    status, plans, _ = command("seed=0,1", "push_to_hub=me/lora-${seed}", *sweep)
    assert status == 0 and plans.count("dry run: ") == 2


def test_a_larger_machine_can_be_planned_for(command, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    larger = ("method=draft", "devices=4", "num_nodes=2", "batch_size=8", "evaluation.every=0")
    status, _, err = command(*larger)
    assert status == 1 and [line.split()[1] for line in err.splitlines()] == ["devices=4", "num_nodes=2"]
    status, plan, err = command(*larger, "dry_run=true")
    assert (status, err) == (0, "") and "on 8 device(s)" in plan
    assert (
        "not here: devices=4 exceeds the 2 CPU cores of this machine\nnot here: num_nodes=2 needs MASTER_ADDR" in plan
    )
    refused(command(*larger, "batch_size=12", "dry_run=true"), "batch_size=12", "a multiple of 8")


@pytest.mark.parametrize(
    "content, words", [(None, "does not exist"), ("\n \n", "is empty"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_prompts_file_without_prompts_is_one_line(command, tmp_path, content, words):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("a circle\n")
    if content is not None:
        bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = command("prompts=file", f"prompts.train_file={good}", f"prompts.held_out_file={bad}")
    refused(answer, f"prompts.held_out_file={bad}", words, "one prompt per line")


def test_a_prompt_in_both_splits_is_one_line(command, tmp_path):
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held_out.txt"
    train.write_text('{"text": "a circle"}\n')
    held_out.write_text("a ring\na circle\n")
    answer = command("prompts=file", f"prompts.train_file={train}", f"prompts.held_out_file={held_out}")
    refused(answer, f"prompts.train_file={train} line 1 is an object", "one of text")
    held_out.write_text('{"text": "a ring"}\n{"text": "a circle"}\n')
    files = f"prompts.train_file={train}", f"prompts.held_out_file={held_out.rename(tmp_path / 'held_out.jsonl')}"
    refused(
        command("prompts=file", *files, "prompts.key=text"), "1 of 2 held-out prompts are trained on too", "a circle"
    )


def test_an_unavailable_data_set_is_one_line(command, monkeypatch):
    monkeypatch.setattr("rdt.weights.refusal", lambda place: "no answer")
    refused(command("prompts=hpdv2"), "dataset:ymhao/HPDv2:train.json", "--repo-type dataset")


@pytest.mark.parametrize("key", ["model.checkpoints.hps.checkpoint", "model.policy.consistency"])
@pytest.mark.parametrize(
    "damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"no tensors", lambda whole: b""]
)
def test_a_corrupt_safetensors_file_is_one_line(command, tmp_path, key, damage):
    file = tmp_path / "damaged.safetensors"
    save_file({"a": torch.ones(100)}, file)
    file.write_bytes(damage(file.read_bytes()))
    refused(command(f"{key}={file}", "dry_run=true"), str(file), "not a readable file of tensors")


def test_a_corrupt_pickle_is_one_line(command, tmp_path):
    file = tmp_path / "damaged.pt"
    file.write_text("root:x:0:0\n")
    refused(command(f"model.checkpoints.hps.checkpoint={file}"), str(file), "not a readable file of tensors")


def test_a_lora_of_another_model_is_one_line(command, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"unet.nosuch.lora_A.weight": torch.ones(2, 3), "unet.nosuch.lora_B.weight": torch.ones(3, 2)}, file)
    refused(command(f"model.policy.consistency={file}"), str(file), "does not fit")


def test_a_truncated_model_folder_is_one_line(command, tmp_path):
    shutil.copytree(BUNDLE / "base", tmp_path / "base")
    (weights,) = (tmp_path / "base" / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7])
    refused(command(f"model.policy.source={tmp_path / 'base'}"), str(weights), "not a readable file of tensors")


def test_a_hub_that_never_answers_is_given_up_on(command, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        answer = command("model.policy.source=hub:owner/name")
    refused(answer, "hub:owner/name", "hf download owner/name")


def test_a_dry_run_prints_the_plan_and_writes_nothing(command):
    status, out, err = command("dry_run=true", "iterations=7")
    assert not status and err == ""
    assert "method=sqdf reward=hps model=shapes" in out and "7 updates of 16 samples" in out
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["dry_run=true"]], ids=" ".join)
def test_answers_without_weights_import_no_torch(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rdt.run", *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "lightning", "diffusers", "transformers", "numpy"}
    assert not list(tmp_path.iterdir())


def test_a_sweep_names_the_first_bad_job_and_leaves_no_job_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rdt.run", "-m", "method.lr=0.1,0", "dry_run=true", "hydra.sweep.dir=sweep"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.count("dry run:") == 1 and "sweep/0" in done.stdout
    assert "method.lr=0 must be greater than 0" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


def test_the_command_finds_its_config_from_anywhere():
    assert Path(run.conf_dir()) == ROOT / "conf"
