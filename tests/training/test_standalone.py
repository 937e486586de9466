"""`rdt evaluate model=... lora=...`: any adapter on any prompts gives what its run gives, or one line says why not."""

import hashlib
import json
import shutil

import pytest
from omegaconf import OmegaConf

from rdt import evaluate
from rdt.result import read
from rdt.training import folder, standalone
from rdt.training.record import KeptChunks
from worlds import feature_checkpoints, model_checkpoints, reward_checkpoints
from worlds.lora_files import saved

SMALL = (
    "model.sampling.num_steps=3",
    "evaluation.prompts=2",
    "evaluation.images_per_prompt=2",
    "evaluation.kl_images=1",
)
SAME = ("model=shapes", "judges=[hps,gold,judge]", "trained_on=[hps]", *SMALL)


@pytest.fixture
def command(tmp_path, monkeypatch, answered):
    """Return a function that runs `rdt evaluate ...` in an empty folder: (exit status, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("RDT_TRACEBACK", raising=False)
    return lambda *overrides: answered(evaluate.entry, *overrides)


def refused(answer, *words):
    status, _, err = answer
    assert status and err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err


def test_a_runs_lora_gives_the_numbers_of_its_run_bit_for_bit(run_folder, command, tmp_path):
    assert command(*SAME, f"lora={run_folder / 'lora'}", "output_dir=out", "name=mine")[0] == 0
    run, own = read(run_folder), read(tmp_path / "here" / "out")
    assert own.tuned.per_prompt == run.tuned.per_prompt and own.base.per_prompt == run.base.per_prompt
    assert own.tuned.scores == run.tuned.scores
    assert (own.method, own.iterations, own.reward) == ("mine", 0, "hps")
    assert own.roles() == {"hps": "trained on", "gold": "unseen", "judge": "unseen"}
    for picture in ("base", "tuned"):
        mine, theirs = (
            (one / "samples" / f"{picture}.png").read_bytes() for one in (tmp_path / "here/out", run_folder)
        )
        assert mine == theirs
    names = {path.name for path in (tmp_path / "here" / "out").iterdir()}
    assert {"config.yaml", "result.json", "report.html", "front.csv", "samples"} <= names and "partial" not in names


def test_several_adapters_end_in_one_front(run_folder, command, tmp_path):
    other = shutil.copytree(run_folder / "lora", tmp_path / "other")
    status, *_ = command("-m", *SAME, f"lora={run_folder},{other},null", "hydra.sweep.dir=sweep")
    assert status == 0
    table = (tmp_path / "here" / "sweep" / "front.csv").read_text()
    assert all(name in table for name in ("untuned", "/other")) and (tmp_path / "here/sweep/report.html").is_file()
    again = read(tmp_path / "here" / "sweep" / "2")
    assert again.tuned.per_prompt | {"kl_nats": 0} == again.base.per_prompt | {"kl_nats": 0}


def test_guidance_and_noise_are_chosen_as_for_a_run(run_folder, command, tmp_path):
    words = [*SAME, f"lora={run_folder}", "guidance=lora_scale", "guidance.curve=[0,1]"]
    assert command(*words, "output_dir=a")[0] == 0
    found = read(tmp_path / "here" / "a")
    none, full = found.points
    assert none.per_prompt["reward/hps"] == found.base.per_prompt["reward/hps"]
    assert full.per_prompt == read(run_folder).tuned.per_prompt
    assert command(*SAME, f"lora={run_folder}", "seed=5", "output_dir=b")[0] == 0
    assert read(tmp_path / "here" / "b").base.prompts != found.base.prompts


def test_an_interrupted_evaluation_continues_with_what_it_measured(run_folder, command, tmp_path, monkeypatch):
    words = [*SAME, f"lora={run_folder}", "evaluation.batch_size=2", "output_dir=out"]
    assert command(*words[:-1], "output_dir=whole")[0] == 0
    write, out = KeptChunks.write, tmp_path / "here" / "out"

    def stop_after_the_first(kept, chunk, found):
        write(kept, chunk, found)
        raise OSError("the power failed")

    with monkeypatch.context() as patch:
        patch.setattr(KeptChunks, "write", stop_after_the_first)
        refused(command(*words), "the power failed")
    assert [path.name for path in (out / "partial").iterdir()] == ["000000-000001.pt"]
    measured = []
    monkeypatch.setattr(KeptChunks, "write", lambda kept, chunk, found: measured.append(chunk.start))
    calls, plain = [], evaluate.standalone.begin_evaluation
    monkeypatch.setattr(standalone, "begin_evaluation", lambda *given: (calls.append(1), plain(*given)))
    assert command(*words)[0] == 0 and measured == [0, 1]
    found = read(out).tuned.per_prompt["reward/hps"]
    assert command(*words)[1].startswith("finished") and len(calls) == 1
    refused(command(*words, "seed=3"), f"output_dir={out} holds another evaluation", "differs")
    assert command(*words, "seed=3", "resume=never")[0] == 0
    assert found == read(tmp_path / "here" / "whole").tuned.per_prompt["reward/hps"]


def test_what_is_wrong_is_one_line_before_anything_is_loaded(run_folder, command, tmp_path):
    def answer(*words):
        return command(*SAME, "output_dir=out", *words)

    refused(answer("lora=nothing.safetensors"), "lora=nothing.safetensors is no file, no folder and no <owner>/<name>")
    refused(answer(f"lora={run_folder / 'samples'}"), "expected pytorch_lora_weights.safetensors")
    refused(answer(f"lora=[{run_folder},{run_folder}]", "lora_weights=[1]"), "lora_weights=[1]", "2 numbers")
    refused(answer(f"lora={run_folder}", "judges=[]", "trained_on=null"), "no judge is left that scores the images")
    refused(answer(f"lora={run_folder}", "trained_on=[x]"), "trained_on=['x'] names x, which is none of hps, gold")
    refused(answer(f"lora={run_folder}", "guidance=aig", "guidance.power=-1"), "guidance.power=-1")
    refused(answer(f"lora={run_folder}", "prompts=list"), "fetch the list to evaluate on", "prompts.file=<its path")
    refused(
        answer(f"lora={run_folder}", "prompts=drawbench"), "fetch DrawBench (Saharia", "give prompts.file=<its path"
    )
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    refused(answer(f"lora={broken}"), str(broken))
    assert not list((tmp_path / "here").iterdir())
    refused(command("guidance=aig"), "run= is missing", "model=<model> lora=<file, folder or hub id>")


def test_a_list_of_prompts_is_recognised_by_count_and_digest(run_folder, command, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"Prompt": text}) for text in ("a red ring", "a blue cross", "a red ring")))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    words = [
        *SAME,
        f"lora={run_folder}",
        "prompts=list",
        f"prompts.file={file}",
        "prompts.key=Prompt",
        "output_dir=out",
    ]
    assert command(*words, "prompts.count=2", f"prompts.sha256={digest}")[0] == 0
    assert read(tmp_path / "here" / "out").base.prompts == ("a red ring", "a blue cross")
    refused(
        command(*words, "prompts.count=3", "output_dir=b"),
        "has 2 different prompts, expected prompts.count=3 of the list",
    )
    refused(command(*words, f"prompts.sha256={'0' * 64}", "output_dir=b"), "it is another file")


def test_a_plan_loads_and_writes_nothing(run_folder, command, tmp_path):
    status, out, _ = command(*SAME, f"lora={run_folder}", "dry_run=true")
    assert status == 0 and "evaluate: 8 images of 2 held-out prompts, 36 network passes" in out
    assert "nothing was loaded or written" in out and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("family", model_checkpoints.MAKERS)
def test_a_published_format_is_evaluated_from_the_command_line(family, command, tmp_path):
    """A tiny checkpoint of each family, unseen judges, a list of prompts and a list of adapters."""
    given = reward_checkpoints.write(tmp_path / "rewards")
    source = model_checkpoints.MAKERS[family](tmp_path / family)
    lora, *_ = saved(family, source, tmp_path / "lora", lora_alpha=16)
    clip = feature_checkpoints.clip_folder(tmp_path / "clip")
    file = tmp_path / "prompts.txt"
    file.write_text("a red ring\na blue cross\n")
    words = [
        f"model={family}", f"model.policy.source={source}", f"lora={lora}", "prompts=list", f"prompts.file={file}",
        "judges=[clipscore,imagereward]", *given["clipscore"], *given["imagereward"], "diversity=clip",
        "~diversity.overall.clip", f"diversity.embedders.clip.checkpoint={clip}", "precision=fp32",
        f"cache={tmp_path / 'cache'}",
        f"model.policy.setup.resolution={model_checkpoints.SIDE}", *SMALL, "output_dir=out",
    ]  # fmt: skip
    status, _, err = command(*words)
    assert status == 0, err
    found = read(tmp_path / "here" / "out")
    assert found.model == family and set(found.tuned.means()) >= {"reward/clipscore", "reward/imagereward"}
    assert found.trained_on is None and found.roles() == {}
    assert found.tuned.per_prompt["reward/clipscore"] != found.base.per_prompt["reward/clipscore"]


def test_the_folder_of_an_evaluation_is_no_run_to_continue(run_folder, command, tmp_path):
    assert command(*SAME, f"lora={run_folder}", "output_dir=out")[0] == 0
    cfg = OmegaConf.load(tmp_path / "here" / "out" / "config.yaml")
    assert "method" not in cfg and not folder.checkpoints(tmp_path / "here" / "out")
    refused(command(f"run={tmp_path / 'here' / 'out'}"), "lora/pytorch_lora_weights.safetensors")
