"""The command `rdt.run`: wrong input gives one line with the value and leaves no files; plans need no weights."""

import os
import shutil
import socket
import sys
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from rdt import run
from rdt.config.compose import composed
from rdt.training import folder, lock
from rdt.weights import BUNDLE
from worlds import children

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def command(tmp_path, monkeypatch, answered):
    """Return a function that runs `rdt run output_dir=out ...` in an empty folder: (exit status, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("RDT_TRACEBACK", raising=False)
    return lambda *overrides: answered(run.entry, "output_dir=out", "logger=csv", *overrides)


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


@pytest.mark.parametrize(
    "overrides, words",
    {
        ("seed=99999999999999999999999",): ["seed=99999999999999999999999 is too large"],
        ("seed=-1",): ["seed=-1 must be from 0 to"],
        ("output_dir=null",): ["output_dir=null is nothing"],
        ("resume=null",): ["resume=null is nothing"],
        ("cache=3",): ["cache=3 is an integer, expected a text; as a text it is 'cache=\"3\"'"],
        ("tags=[1]",): ["tags=[1] must be a list of texts of 1 to 64 characters"],
        (f"tags=[{'x' * 70}]",): ["must be a list of texts of 1 to 64 characters"],
        ("logger=auto", "logger.wandb.mode=foo"): ["logger.wandb.mode=foo is not one of online, offline, disabled"],
        ("evaluation.grid=[0,0]",): ["evaluation.grid=[0, 0] must be a list of 2 integers greater than 0"],
        ("evaluation.grid=[4]",): ["evaluation.grid=[4] must be a list of 2 integers"],
        ("evaluation.grid=[4,50]",): ["evaluation.grid=[4,50] has 50 columns; evaluation.images_per_prompt=12"],
        ("evaluation.images_per_prompt=1",): ["evaluation.images_per_prompt=1: diversity.measures.features compares"],
        ("precision=fp16",): ["precision=fp16 is not one of fp32, bf16; fp16 would need loss scaling"],
        ("method.max_grad_norm=0",): ["method.max_grad_norm=0 must be greater than 0"],
        ("model.sampling.eta=-1",): ["model.sampling.eta=-1 must be at least 0"],
        ("method.kl_coef=-1",): ["method.kl_coef=-1 must be at least 0"],
        ("method.omega=-1",): ["method.omega=-1 must be at least 0"],
        ("method=drift", "method.tau1=0.95"): ["method.tau1=0.95 must be at least 0 and less than method.tau2=0.9"],
        ("model.lora.targets=[1]",): ["model.lora.targets=[1] holds 1, which is an integer"],
        ("model.lora=null",): ["model.lora=null is nothing, expected a section"],
        ("sweep=kl", "method=draft_plus"): ["sweep=kl runs method.kl_coef=0,0.03,0.3", "add -m"],
        ("method=draft,sqdf",): ["method=draft,sqdf gives several values; add -m"],
        ("+method.x=1",): ["method.x=1: rdt.methods.sqdf.SQDF has no argument x"],
        ("reward._target_=rdt.rewards.clip.hsp",): ["reward._target_=rdt.rewards.clip.hsp cannot be imported"],
        ("+evaluation.judges.x=jpeg",): ["+reward@evaluation.judges.x=jpeg adds one"],
        ("+reward@evaluation.judges.ir=imagereward",): ["model=shapes has no checkpoint for imagereward"],
        ("~method",): ["method= is missing"],
        ("diversity=[0.5]",): ["0.5 is no name"],
        ("evaluation=[null]",): ["null is no name"],
        ("diversity=null",): ["diversity=null: null is no name"],
        ("reward=3",): ["reward=3: 3 is no name"],
        ("guidance=[aig,cads]",): ["guidance=[aig,cads] lists choices, of which guidance takes one"],
        ("diversity=[shapes,nosuch]",): ["diversity=nosuch is not one of clip, dino,"],
        ("judges=[nosuch]",): ["judges=nosuch is not one of aesthetic,"],
        ("evaluation.judges=[gold]",): ["evaluation.judges=[gold] is no section"],
        ("reward.scale=0",): ["reward.scale=0 must be other than 0"],
        ("model.lora.targets=[]",): ["model.lora.targets=[] must be a non-empty list of texts"],
        ("method=bbo", "method.queries=[]"): ["method.queries=[] must be a non-empty list of integers"],
        ("guidance=aig", "guidance.curve=[1,-1]"): [
            "guidance.curve=[1, -1] holds -1: guidance.power must be at least 0"
        ],
        ("guidance=cads", "guidance.curve=[-0.5]"): ["holds -0.5: guidance.scale must be at least 0"],
        (f"output_dir={'x' * 300}",): ["output_dir=", "cannot be written: File name too long"],
    }.items(),
)
def test_a_value_that_cannot_be_meant_is_one_line(command, overrides, words):
    refused(command(*overrides), *words)


CLIMBERS = ("sqdf", "aig", "draft", "draft_lv", "draft_plus", "alignprop", "refl", "adjoint")


@pytest.mark.parametrize("plan", ["dry_run=true", "dry_run=false"])
@pytest.mark.parametrize("method", CLIMBERS)
def test_a_reward_without_a_gradient_is_refused_before_anything_is_loaded(command, method, plan):
    refused(command(f"method={method}", "reward=gold", plan), f"method={method} climbs the reward's", "reward=gold has")


def test_a_part_without_a_gradient_is_named_and_remote_scorers_have_none(command):
    mixture = ("reward=mixture", "+reward@reward.parts.gold=gold", "+reward.parts.gold.weight=1")
    refused(command(*mixture, "method=draft"), "reward.parts.gold has none")
    refused(command("reward=remote", "reward.url=http://127.0.0.1:8000"), "reward=remote has none")


@pytest.mark.parametrize("words", [["method=grpo", "reward=gold"], ["method=bbo", "reward=gold"], ["reward=jpeg"]])
def test_a_method_without_need_of_a_gradient_or_a_reward_that_has_one_is_planned(command, words):
    status, out, err = command(*words, "dry_run=true")
    assert status == 0 and "dry run: " in out, err


def test_every_missing_value_has_its_line(command):
    status, out, err = command("prompts=file", "dry_run=true")
    assert status == 1 and out == ""
    assert err == "".join(
        f"error: prompts.{key}=??? has no default; give prompts.{key}=...\n" for key in ("train_file", "held_out_file")
    )


@pytest.mark.parametrize("plan", ["dry_run=true", "dry_run=false"])
def test_prompts_outside_the_world_are_refused_before_anything_is_loaded(command, tmp_path, plan):
    for name, text in {"train": "a circle\na cat\n", "held_out": "a photo of a dog\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    files = [f"prompts.{name}_file={tmp_path / name}.txt" for name in ("train", "held_out")]
    status, out, err = command("prompts=file", *files, plan)
    assert status == 1 and out == "" and err.count("\n") == 2
    assert "prompts.train: prompt 'a cat': 'cat' is not a word of the shapes world" in err
    assert "prompts.held_out: prompt 'a photo of a dog': 'photo' is not a word" in err


def test_two_measures_of_one_name_are_refused_and_several_choices_keep_their_own(command):
    extra = "{_target_: rdt.diversity.Diversity, embedder: null, statistics: {vendi: {_target_: rdt.diversity.vendi}}}"
    refused(
        command(f"+diversity.measures.x={extra}"),
        "diversity.measures.x and diversity.measures.features both measure vendi",
    )
    cfg = composed("config", "diversity=[lpips,dreamsim]")
    OmegaConf.resolve(cfg)
    embedders = {name: measure.embedder._target_ for name, measure in cfg.diversity.measures.items()}
    assert embedders == {"lpips": "rdt.embedders.lpips.lpips", "dreamsim": "rdt.embedders.dreamsim.dreamsim"}


@pytest.mark.parametrize(
    "overrides, note",
    [
        (["method.n_step=2"], "method.n_step=2 has no effect with method.look_ahead=consistency"),
        (["guidance=aig", "guidance.fraction=0.1"], "guidance.fraction=0.1 has no effect with guidance.schedule=power"),
        (["method.kl_coef=0", "method.kl_min_std=0.1"], "method.kl_min_std=0.1 has no effect with method.kl_coef=0"),
        (["method=grpo", "method.window_within=0.3"], "method.window_within=0.3 has no effect with method.window=null"),
        (["method=grpo", "method.window_within=0.3", "method.window=2"], ""),
        (
            ["method=grpo", "method.uncond_grad=true", "model.sampling.guidance_scale=1"],
            "method.uncond_grad=true has no effect with model.sampling.guidance_scale=1",
        ),
        (
            ["method=drift", "method.concentrate=off", "method.keep=3"],
            "method.keep=3 has no effect with method.concentrate=off",
        ),
        (
            ["method=drift", "method.prompt_noise=0", "method.tau1=0.1"],
            "method.tau1=0.1 has no effect with method.prompt_noise=0",
        ),
        (
            ["method=bbo", "method.surrogates.ucb.ridge=3"],
            "method.surrogates.ucb.ridge=3 has no effect with method.surrogate=bootstrap",
        ),
        (
            ["evaluation.every=500", "iterations=10"],
            "evaluation.every=500 has no effect with iterations=10: training ends before the first evaluation",
        ),
        (
            ["evaluation.every=0", "evaluation.small_prompts=2"],
            "evaluation.small_prompts=2 has no effect with evaluation.every=0",
        ),
        (
            ["evaluation.kl_images=1", "model.sampling.eta=0"],
            "evaluation.kl_images=1 has no effect with model.sampling.eta=0",
        ),
        (
            ["constraint.kl.action=stop"],
            "constraint.kl.action=stop has no effect without constraint.kl.min or constraint.kl.max",
        ),
        (
            ["constraint.kl.max=9", "constraint.kl.rate=2"],
            "constraint.kl.rate=2 has no effect with constraint.kl.action=warn",
        ),
        (
            ["constraint.judge=gold"],
            "constraint.judge=gold has no effect without constraint.gap.min or constraint.gap.max",
        ),
        (["constraint.kl<=9"], ""),
        (["+folds=3"], "folds=3 has no effect: nothing in this run reads it"),
        (["+trainer.checkpoint_evry=3"], "trainer.checkpoint_evry=3 has no effect: nothing in this run reads it"),
        (["+folds=3", "iterations=${folds}"], ""),
        (["cache=elsewhere"], "cache=elsewhere has no effect: nothing in this run reads it"),
        (
            ["method=grpo", "model.look_ahead=tweedie"],
            "model.look_ahead=tweedie has no effect: nothing in this run reads it",
        ),
        (["model.look_ahead=tweedie"], ""),
        (
            ["model.policy.setup.precision=bf16", "precision=bf16"],
            "precision=bf16 has no effect: nothing in this run reads it",
        ),
        (["precision=bf16"], ""),
        (
            ["model.checkpoints.hps_v2.checkpoint=x"],
            "model.checkpoints.hps_v2.checkpoint=x has no effect: nothing in this run reads it",
        ),
        (["model.checkpoints.hps.checkpoint=bundled:hps.safetensors"], ""),
        (["method.n_step=2", "method.look_ahead=n_step"], ""),
        (["precision=fp32"], ""),
    ],
)
def test_a_key_without_effect_is_pointed_out(command, overrides, note):
    status, out, err = command(*overrides, "dry_run=true")
    assert (
        status == 0
        and err == ""
        and ([f"note     {note}"] if note else []) == [line for line in out.splitlines() if line.startswith("note ")]
    )


def test_an_empty_cache_variable_means_the_default(command, monkeypatch):
    monkeypatch.setenv("RDT_CACHE", "")
    assert composed("config").cache == "~/.cache/rdt"
    assert command("dry_run=true")[0] == 0


def test_a_judge_is_added_as_a_reward_is_chosen(command):
    status, _, err = command("+reward@evaluation.judges.size=jpeg", "evaluation.judges.gold=null", "dry_run=true")
    assert (status, err) == (0, "")


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
    assert (status, err) == (0, "") and " samples on 1 device(s), 4 at a time, 10 sampling steps" in plan


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
    "content, words", [(None, "does not exist"), ("\n \n", "is empty"), (b"a\xff\xfe", "not UTF-8")]
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
    reason = "not a readable file of tensors: neither .safetensors nor a pickle of tensors alone"
    refused(command(f"model.checkpoints.hps.checkpoint={file}"), str(file), reason)


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
    done = children.run(
        [sys.executable, "-X", "importtime", "-m", "rdt.run", *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "lightning", "diffusers", "transformers", "numpy"}
    assert not list(tmp_path.iterdir())


def test_a_sweep_names_the_first_bad_job_and_leaves_no_job_folder(tmp_path):
    done = children.run(
        [sys.executable, "-m", "rdt.run", "-m", "method.lr=0.1,0", "dry_run=true", "hydra.sweep.dir=sweep"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.count("dry run:") == 1 and "sweep/0" in done.stdout
    assert "method.lr=0 must be greater than 0" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


def test_the_command_finds_its_config_from_anywhere():
    assert Path(run.conf_dir()) == ROOT / "conf"


@pytest.mark.parametrize(
    "override, words",
    {
        "output_dir=2024": ["output_dir=2024 is an integer", "expected a text"],
        "output_dir=null": ["output_dir=null is nothing"],
        "output_dir=[a]": ["is a list"],
        "output_dir=true": ["is a truth value"],
        'output_dir=""': ["output_dir="],
        "tags=[1]": ["tags=[1] must be a list of texts"],
        f"tags=[{'a' * 70}]": ["tags=", "1 to 64 characters"],
        "tags=['']": ["tags=['']", "1 to 64 characters"],
    }.items(),
)
def test_a_name_that_is_no_name_is_one_line(command, override, words):
    refused(command(override, "dry_run=true"), *words)
    refused(command(override), *words)


def test_a_mode_or_group_that_wandb_does_not_know_is_one_line(command):
    modes = "logger.wandb.mode=foo is not one of online, offline, disabled"
    refused(command("logger=wandb", "logger.wandb.mode=foo", "dry_run=true"), modes)
    refused(command("logger=wandb", f"logger.wandb.group={'g' * 129}"), "logger.wandb.group=", "1 to 128 letters")


def test_torchrun_is_refused_before_anything_is_written(command, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    refused(command(), "torchrun started this process", "devices=<processes per machine>")


def test_paths_are_relative_to_where_the_command_was_started(command):
    status, plan, _ = command("hydra.job.chdir=true", "seed=0", "hydra.sweep.dir=sweep", "dry_run=true", "-m")
    assert status == 0 and f"output_dir={Path.cwd() / 'out'}" in plan


def test_a_folder_in_use_is_one_line(command):
    with lock.held("output_dir", Path("out")):
        status, out, err = command()
        assert (status, out) == (1, "") and err.count("\n") == 1
        assert f"output_dir={Path.cwd() / 'out'} is in use by process {os.getpid()} on " in err
    with lock.held("hydra.sweep.dir", Path("sweep")):
        status, out, err = command("seed=0", "hydra.sweep.dir=sweep", "-m")
        assert (status, out) == (1, "") and err.startswith("error: hydra.sweep.dir=sweep is in use by process ")
    assert not list(Path.cwd().iterdir())


def test_a_job_is_compared_as_its_run_records_it(tmp_path):
    """A finished job is found by its config, resolved and without rules."""
    with hydra.initialize_config_dir(run.conf_dir(), version_base="1.3"):
        raw = hydra.compose("config", [f"output_dir={tmp_path}", "logger=csv"])
    cfg = composed("config", f"output_dir={tmp_path}", "logger=csv")
    folder.begin(cfg, tmp_path)
    for name in ("result.json", "report.html"):
        (tmp_path / name).touch()
    assert "rules" in raw and folder.is_finished(run.settled(raw), tmp_path)
