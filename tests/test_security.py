"""A run's folder of a stranger: its config.yaml runs nothing, and what is damaged is refused in one line."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from rdt import evaluate, sample, targets
from rdt import run as run_command
from rdt.errors import UsageError
from rdt.report.read import read_runs
from rdt.targets import conf_dir, instantiate, named_in, own_targets, permitted
from rdt.training import finished
from rdt.training.folder import check_folder
from rdt.weights import check_source
from worlds import payloads
from worlds.smallest_run import OVERRIDES, minimal

COMMANDS = {evaluate: (), sample: ("prompt=a circle", "n=1")}


@pytest.fixture
def run(run_folder, tmp_path):
    """Return a copy of the finished run's folder."""
    return shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("wandb*", "checkpoints"))


@pytest.fixture
def refused(monkeypatch, tmp_path, capfd):
    """Return a function that runs a command and returns the one line with which it refuses."""

    def call(module, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as stopped:
            module.entry()
        out, err = capfd.readouterr()
        assert stopped.value.code == 1 and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1 and err[:-1].isprintable(), err
        return err

    return call


def refusal(run):
    """Return the one line in which a run's folder is refused before anything is loaded or written."""
    before = state(run)
    with pytest.raises(UsageError) as found:
        finished.read_finished(run, None)
    assert state(run) == before and str(found.value).isprintable()
    return str(found.value)


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def put(run, key, value):
    """Set a dotted key of a run's config.yaml, which may go through lists."""
    tree = yaml.safe_load((run / "config.yaml").read_text())
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node[int(section)] if isinstance(node, list) else node.setdefault(section, {})
    node[int(last) if isinstance(node, list) else last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


# targets

FOREIGN = [
    "os.system", "posix.system", "builtins.exec", "builtins.eval", "builtins.open", "builtins.__import__", "io.open",
    "subprocess.run", "subprocess.Popen", "importlib.import_module", "runpy.run_path", "pickle.load", "shutil.rmtree",
    "pathlib.Path.touch", "functools.partial", "torch.load", "torch.hub.load", "torch.utils.cpp_extension.load",
    "numpy.load", "yaml.unsafe_load", "webbrowser.open", "code.interact", "pdb.run", "ctypes.CDLL", "smtplib.SMTP",
    "hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_method", "hydra.utils.get_object",
    "lightning.Trainer", "transformers.AutoModel.from_pretrained", "diffusers.DiffusionPipeline.from_pretrained",
    "omegaconf.OmegaConf.load", "rdt.training.card.push", "rdt.files.remove", "rdt.files.write_text",
    "rdt.targets.instantiate", "rdt.targets.permitted", "rdt.targets.PACKAGE", "rdt.weights.load_tensors",
    "rdt.errors.os.system", "rdt.training.sweep.SweepReport", "rdt.embedders.dreamsim.dreamsim", "rdt", "", "rdt..os",
    " rdt.models.sd15.build", "rdt.models.sd15.build ", "rdt/models/sd15", "\u0440dt.models.sd15.build",
    "my.Class\x1b[31m\n", None, 3, True, ["os.system"], {"_target_": "os.system"},
]  # fmt: skip
PLACES = [
    "model.policy", "model.policy.evil", "model.evil", "reward", "reward.weights.evil", "method", "method.buffer",
    "prompts.train", "prompts.held_out.evil", "diversity.measures.evil", "diversity.fidelity.evil",
    "diversity.overall.evil", "evaluation.limit", "evaluation.judges.evil", "guidance", "model.sampling.evil",
    "model.lora.targets.0", "evil", "evaluation.grid.1", "hydra.callbacks.evil", "logger.wandb.evil",
]  # fmt: skip


def test_the_targets_that_need_no_permission_are_those_of_conf():
    trees = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in Path(conf_dir()).rglob("*.yaml"))
    named = {target for tree in trees for target in named_in(tree)}
    assert own_targets() == (named | targets.DOCUMENTED) - targets.UNSAFE
    assert all(target.startswith("rdt.") for target in own_targets()) and len(own_targets()) > 50
    assert not own_targets() & {target for target in FOREIGN if isinstance(target, str)}


@pytest.mark.parametrize("target", FOREIGN, ids=repr)
def test_a_foreign_target_is_not_built(target):
    config = {"_target_": target, "_args_": ["touch marker"]}
    for tree in (config, {"a": config}, {"a": [{"b": [config]}]}, {"a": config | {"_partial_": True}}):
        outer = {"_target_": "rdt.diversity.vendi", "_partial_": True, "_recursive_": False} | tree
        with pytest.raises(UsageError):
            instantiate(outer)


@pytest.mark.parametrize("place", PLACES)
def test_a_foreign_target_anywhere_in_a_config_is_refused(run, place):
    evil = {"_target_": "builtins.open", "_args_": [str(run.parent / "marker"), "w"]}
    put(run, place, {"a": [evil | {"_partial_": True}]} if place == "evil" else evil)
    line = refusal(run)
    assert line.startswith(f"{run}/config.yaml: {place}") and "_target_=builtins.open" in line
    assert line.endswith("allow=[builtins.open]") and not (run.parent / "marker").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__)
def test_a_command_refuses_a_foreign_target_before_anything_is_built(run, refused, command):
    marker = run.parent / "marker"
    put(run, "model.policy", {"_target_": "builtins.open", "_args_": [str(marker), "w"]})
    before = state(run)
    assert "type allow=[builtins.open]" in refused(command, f"run={run}", *COMMANDS[command], "guidance=cfg")
    assert state(run) == before and not marker.exists()


@pytest.mark.parametrize("target", ["torch.load", "torch.hub.load"])
def test_the_loaders_of_other_libraries_are_refused(run, target):
    marker = run.parent / "marker"
    payloads.raw_pickle(run / "x.pt", marker)
    payloads.module(run / "hubconf.py", marker)
    arguments = {"f": str(run / "x.pt"), "weights_only": False, "repo_or_dir": str(run), "source": "local"}
    put(run, "model.policy", arguments | {"_target_": target})
    assert f"allow=[{target}]" in refusal(run)
    assert not marker.exists()


def test_a_module_beside_the_config_is_not_imported(run, monkeypatch):
    monkeypatch.syspath_prepend(run)
    payloads.module(run / "plugin_of_a_stranger.py", run.parent / "marker", "Reward")
    put(run, "reward._target_", "plugin_of_a_stranger.Reward")
    assert "allow=[plugin_of_a_stranger.Reward]" in refusal(run)
    assert not (run.parent / "marker").exists()


def test_a_plug_in_that_the_user_names_is_built(run, refused):
    put(run, "reward", yaml.safe_load((run / "config.yaml").read_text())["reward"] | {"event": "nan", "iteration": 99})
    put(run, "reward._target_", "worlds.failing_reward.hps")
    assert "allow=[worlds.failing_reward.hps]" in refused(evaluate, f"run={run}", "allow=[worlds.other.hps]")
    with permitted(["worlds.failing_reward.hps"]):
        assert finished.read_finished(run, None).experiment().reward is not None
    assert "allow=[worlds.failing_reward.hps]" in refusal(run)  # permission ended with its command


def test_all_refused_targets_are_named_once(run):
    put(run, "model.a", [{"_target_": "x.Y"}, {"_target_": "x.Z"}, {"_target_": "x.Y"}])
    line = refusal(run)
    assert "model.a.0._target_=x.Y" in line and line.endswith("allow=[x.Y,x.Z]")


@pytest.mark.parametrize("allow", ["allow=null", "allow=3", "allow=x.Y", "allow={a:1}"])
def test_a_permission_is_a_list(run, refused, allow):
    put(run, "model.evil", {"_target_": "x.Y"})
    assert "allow" in refused(evaluate, f"run={run}", allow)


@pytest.mark.parametrize(
    "address", ["http://evil.example/score", "https://10.0.0.1", "HTTP://127.0.0.1@evil", "ftp://x", " http://[::2]"]
)
def test_an_address_of_a_stranger_is_not_contacted(run, address):
    put(run, "reward", {"name": "remote", "_target_": "rdt.rewards.remote.RemoteReward", "url": address})
    assert "reward.url=" in (line := refusal(run)) and "allow=[" in line
    with permitted([address]):
        assert finished.read_finished(run, None).cfg.reward.url == address


# config.yaml is plain data

REFERENCES = [
    "${oc.env:HF_TOKEN}", "a ${oc.env:HF_TOKEN} b", "${seed}", "${oc.create:{_target_:os.system}}", "\\${seed}", "???",
    "${oc.decode:x}", "${hydra:runtime.cwd}", "${now:%Y}", "${", "${evil:x}",
]  # fmt: skip


@pytest.mark.parametrize("text", REFERENCES)
@pytest.mark.parametrize("place", ["model.policy.source", "guidance.name", "tags", "overrides", "evil"])
def test_a_reference_in_a_recorded_config_is_refused_unresolved(run, monkeypatch, place, text):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    put(run, place, [text] if place in ("tags", "overrides") else text)
    line = refusal(run)
    assert f"{run}/config.yaml is not the config of a run: {place}" in line and "secretsecret" not in line


def test_a_reference_in_a_key_is_refused(run):
    put(run, "model", {"${oc.env:HOME}": 1})
    assert "is a reference" in refusal(run)


BROKEN_CONFIGS = {
    "no YAML": b"a: [1, 2\nb: }",
    "nested lists": b"[" * 200_000,
    "nested mappings": b"{a: " * 100_000,
    "nested blocks": b"\n".join(b" " * k + b"a:" for k in range(1000)),
    "not UTF-8": b"model: \xff\xfe\x00caf\xe9",
    "NUL bytes": b"\x00" * 100,
    "empty": b"",
    "a text": b"hello",
    "a list": b"[1, 2]",
    "no model": b"seed: 1",
    "an object": b"model: !!python/object/apply:os.system ['touch marker']",
    "a name": b"model: !!python/name:os.system",
    "a module": b"model: !!python/module:os",
    "an anchor bomb": b"a: &a [x]\nb: &b [*a,*a]\nmodel: [*b,*b]",
    "an anchor of itself": b"model: &a [*a]",
    "a date": b"model: 2024-01-01",
    "bytes": b"model: !!binary aGVsbG8=\n2024-01-01: 1",
    "a null key": b"model: {null: 1}",
    "two documents": b"model: 1\n---\nmodel: 2",
    "a set": b"model: !!set {a, b}",
    "large": b"model: 1\n" + b"#" * 2**20,
}


@pytest.mark.parametrize("damage", BROKEN_CONFIGS)
def test_a_damaged_config_is_refused_in_one_line_that_names_it(run, damage):
    (run / "config.yaml").write_bytes(BROKEN_CONFIGS[damage])
    assert refusal(run).startswith(f"{run}/config.yaml is not the config of a run: ")
    assert not (run.parent / "marker").exists()
    with pytest.raises(UsageError, match=r"config\.yaml is not the config of a run: "):  # nor is the run continued
        check_folder(minimal(run), run)


@pytest.mark.parametrize("damage", ["no YAML", "nested lists", "not UTF-8", "an object"])
def test_a_command_refuses_a_damaged_config(run, refused, damage):
    (run / "config.yaml").write_bytes(BROKEN_CONFIGS[damage])
    before = state(run)
    for command, arguments in COMMANDS.items():
        assert f"{run}/config.yaml" in refused(command, f"run={run}", *arguments)
    assert f"{run}/config.yaml" in refused(run_command, *OVERRIDES, "logger=csv", f"output_dir={run}")
    assert state(run) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.lora", None), ("model.lora", {"rank": 2}), ("model.lora.rank", "x"), ("model.sampling", [1]),
        ("model.policy", {}), ("model.policy.nosuch", 1), ("method", "sqdf"), ("method.nosuch", 1),
        ("reward", None), ("reward.weights", 3), ("seed", "x"), ("guidance", None), ("guidance.nosuch", 1),
        ("batch_size", None), ("prompts", {}), ("evaluation", {}), ("evaluation.prompts", "x"), ("diversity", 3),
        ("model", 3), ("model", {}), ("evaluation.judges", [1]), ("evaluation.grid", 3),
        ("prompts.train", {"_target_": "rdt.prompts.packaged"}),
    ],
)  # fmt: skip
def test_a_config_of_a_wrong_structure_is_refused_in_one_line(run, refused, key, value):
    put(run, key, value)
    before = state(run)
    refused(evaluate, f"run={run}")
    assert state(run) == before


# result.json


def replaced(key, value):
    """Return the damage that puts a value at a dotted key of result.json."""

    def damage(run):
        tree = json.loads((run / "result.json").read_text())
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node[int(section)] if isinstance(node, list) else node[section]
        node[int(last) if isinstance(node, list) else last] = value
        return json.dumps(tree).encode()

    return damage


ENTRIES = [
    ("schema", 1), ("schema", 3), ("schema", "2"), ("schema", [2]), ("schema", None), ("method", 3), ("seed", "x"),
    ("iterations", None), ("points", []), ("points", {}), ("points", 3), ("points", [3]), ("points.0", None),
    ("base", []), ("base.reward", 3), ("base.reward", {"hps": 3}), ("base.prompts", 3), ("base.prompts", [3]),
    ("base.per_prompt", []), ("base.per_prompt", {"reward/hps": "ab"}), ("base.per_prompt", {"reward/hps": [1.0]}),
    ("base.per_prompt", {"reward/hps": [float("nan"), 1.0]}), ("base.reward.hps.mean", float("inf")),
    ("base.reward.hps.mean", 10**400), ("base.reward.hps.ci95", [1]), ("base.reward.hps.ci95", "ab"),
    ("points.0.guidance", [1]), ("points.0.guidance", "cfg"), ("points.0.n_per_prompt", "x"), ("compute", []),
    ("compute.seconds", "x"), ("compute.seconds", float("nan")), ("limit", [1]), ("limit", {"frontier": [1]}),
    ("limit", {"frontier": [{"gold": "x"}]}), ("weights", 3), ("versions", 3), ("prompts", 3),
]  # fmt: skip
DAMAGES = {f"{key}={value!r:.40}": replaced(key, value) for key, value in ENTRIES} | {
    "empty": lambda run: b"",
    "half": lambda run: (run / "result.json").read_bytes()[:300],
    "not UTF-8": lambda run: b'{"schema": 2, "method": "\xff"}',
    "nested": lambda run: b"[" * 200_000,
    "nested objects": lambda run: b'{"a":' * 100_000,
    "a list": lambda run: b"[]",
    "a long number": lambda run: b'{"schema": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_refused_in_one_line_before_anything_is_written(run, damage):
    (run / "result.json").write_bytes(DAMAGES[damage](run))
    assert refusal(run).startswith(f"{run}/result.json: ")
    runs, (failure,) = read_runs([run])
    assert not runs and failure.path == run and "result.json" in failure.reason


@pytest.mark.parametrize("damage", ["nested", "schema=3", "not UTF-8"])
def test_a_command_refuses_a_damaged_result(run, refused, damage):
    (run / "result.json").write_bytes(DAMAGES[damage](run))
    before = state(run)
    for command, arguments in COMMANDS.items():
        assert f"{run}/result.json" in refused(command, f"run={run}", *arguments)
    assert state(run) == before


# the adapter


def changed(change):
    """Return the damage that changes the first tensor of the adapter."""

    def damage(file):
        tensors = load_file(file)
        name = min(tensors)
        save_file(tensors | {name: change(tensors[name].clone()).contiguous()}, file)

    return damage


def flipped(place):
    """Return the damage that overwrites a byte."""

    def damage(file):
        content = bytearray(file.read_bytes())
        content[place] ^= 0x55
        file.write_bytes(content)

    return damage


ADAPTERS = {
    "NaN": changed(lambda x: x.fill_(torch.nan)),
    "one infinity": changed(lambda x: x.index_fill_(0, torch.tensor([0]), torch.inf)),
    "infinite in single precision": changed(lambda x: x.double().fill_(1e300)),
    "another rank": changed(lambda x: x[:1]),
    "a scalar": changed(lambda x: x.sum()),
    "no number": changed(lambda x: x[:0]),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "a byte less": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "a long header": lambda file: file.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "a nested header": lambda file: file.write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5),
    "a header of text": lambda file: file.write_bytes((4).to_bytes(8, "little") + b'"ab"'),
    "a header flipped": flipped(3),
    "a name flipped": flipped(12),
}


BROKEN_FILES = ("empty", "half", "a byte less", "a byte more", "a long header", "a nested header", "a header of text")


@pytest.mark.parametrize("damage", ADAPTERS)
def test_a_damaged_adapter_is_refused_in_one_line_that_names_it(run, refused, damage):
    ADAPTERS[damage](run / finished.LORA)
    before = state(run)
    assert str(run / finished.LORA) in refused(evaluate, f"run={run}")
    assert state(run) == before


@pytest.mark.parametrize("damage", BROKEN_FILES)
def test_a_damaged_file_is_refused_before_it_is_loaded(run, damage):
    ADAPTERS[damage](run / finished.LORA)
    with pytest.raises(ValueError, match="is not a readable file of tensors"):
        check_source(str(run / finished.LORA))
