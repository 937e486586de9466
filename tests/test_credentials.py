"""Credentials reach no file, no log and no screen: neither those of the environment nor those that are typed."""

import json
import os
import sys

import pytest
from omegaconf import OmegaConf

from rdt.credentials import check_recorded, check_typed
from rdt.errors import UsageError
from worlds import children
from worlds.failing_reward import environment
from worlds.smallest_run import OFFLINE, OVERRIDES, minimal

SECRET = "s3cr3t0123456789abcdef"
VARIABLES = (
    "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RDT_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY",
    "DATABASE_PASSWORD", "MY_SERVICE_SECRET",
)  # fmt: skip
TYPED = [
    f"+reward.headers.Authorization={SECRET}", f"+reward.headers={{Authorization: Bearer {SECRET}}}",
    f"+reward.token={SECRET}", f"++reward.api_key={SECRET}", f"+reward.apiKey={SECRET}", f"+api-key={SECRET}",
    f"+logger.wandb.password={SECRET}", f"+client_secret={SECRET}", f"+aws.credentials={SECRET}",
    f"reward.url=http://user:{SECRET}@host/", f"reward.url=http://{SECRET}@host", f"reward.url=HTTPS://u:{SECRET}@h:1",
    f"reward.url='http://host/score?key={SECRET}'", f"reward.url='http://host/score?a=1&access_token={SECRET}'",
    f"reward.url=u:{SECRET}@host", f"reward.url=https:\\u:{SECRET}@host", f"reward.url=https:/u:{SECRET}@host",
    f"reward.url=https://host/%3Ftoken={SECRET}", f"host=u:{SECRET}@host", f"https://host/votes.json?sig={SECRET}",
    f"model.policy.source=hub:u:{SECRET}@x/y", f"model.policy.source=hub:x/y?token={SECRET}",
    f"tags=[wandb_key={SECRET}]", f"tags=[hf_{SECRET}{SECRET}]",
    f"reward.token='${{oc.env:{VARIABLES[1]}}}'", f"+list=[{{token: {SECRET}}}]",
]  # fmt: skip


SEVERAL = """
import json, sys
from rdt.cli import run_command
for name, *words in json.loads(sys.argv[1]):
    try:
        run_command(name, words)
    except SystemExit as stop:
        if stop.code:
            raise
"""


def python(folder, *words):
    """Run Python in a folder with secrets in the environment."""
    secrets = {name: f"{SECRET}{k}" for k, name in enumerate(VARIABLES)}
    inherited = {name: value for name, value in environment().items() if not name.startswith("WANDB_")}  # its service
    variables = inherited | secrets | {"WANDB_DATA_DIR": str(folder / "data"), "WANDB_CACHE_DIR": str(folder / "c")}
    return children.run([sys.executable, *words], cwd=folder, env=variables)


def rdt(folder, command, *arguments):
    """Run a command in a folder with secrets in the environment."""
    return python(folder, "-m", f"rdt.{command}", *arguments)


def test_a_run_its_evaluation_and_its_report_write_no_secret_of_the_environment(tmp_path):
    good = [("run", *OVERRIDES, *OFFLINE, "output_dir=out"), ("evaluate", "run=out", "guidance=lora_scale")]
    done = [python(tmp_path, "-c", SEVERAL, json.dumps([*good, ("report", "runs=out")]))]
    done += [rdt(tmp_path, "run", "-m", *OVERRIDES, "logger=none", "method.lr=x,y", "hydra.sweep.dir=sweep")]
    done += [rdt(tmp_path, "run", *OVERRIDES, "logger=none", "method.lr=x")]
    assert [one.returncode for one in done] == [0, 1, 1], [one.stderr for one in done]
    assert not [one.args for one in done if SECRET in one.stdout + one.stderr]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("argument", TYPED)
def test_a_typed_credential_is_refused_without_repeating_it(argument):
    with pytest.raises(UsageError) as refused:
        check_typed(["method=sqdf", argument])
    assert SECRET not in str(refused.value) and "environment" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("command", ["run", "run -m", "evaluate", "sample", "serve"])
def test_a_command_refuses_a_credential_before_it_writes_anything(tmp_path, command):
    name, *flags = command.split()
    done = rdt(tmp_path, name, *flags, TYPED[0], "nosuch=1")
    assert done.returncode == 1 and SECRET not in done.stdout + done.stderr
    assert done.stderr.startswith("error: reward.headers.Authorization")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["tags=[${oc.env:RDT_TOKEN}]"], ["output_dir=out-${oc.env:RDT_TOKEN}"], ["-m", "tags=[${oc.env:RDT_TOKEN}]"]],
)
def test_a_secret_of_the_environment_is_not_recorded(tmp_path, arguments):
    done = rdt(tmp_path, "run", *arguments, *OVERRIDES, "logger=none")
    assert done.returncode == 1 and SECRET not in done.stdout + done.stderr and "RDT_TOKEN" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if SECRET in str(path)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "argument",
    [
        "model.policy.tokens=512", "model.checkpoints.hps.tokenizer=hub:a/b", "reward.url=http://127.0.0.1:8000",
        "+reward.token=null", "prompt=a sign that says secret=1", "prompt='token: x'", "guidance.power=2", "--help",
        "run=outputs/password", "'constraint.kl<=20'", "model.policy.source=hub:owner/name@main:file",
        "reward.url='http://host/score?batch=3'", "tags=[hf_short]", "hydra.sweep.dir=x@y",
    ],
)  # fmt: skip
def test_other_arguments_are_accepted(argument):
    check_typed([argument])


def test_a_config_of_the_package_holds_no_credential(tmp_path):
    for model in ("shapes", "sd15", "sd3"):
        check_recorded(OmegaConf.to_container(minimal(tmp_path, f"model={model}")))


def test_a_short_value_of_the_environment_is_no_secret(monkeypatch):
    monkeypatch.setitem(os.environ, "SOME_KEY", "shapes")
    check_recorded({"model": {"name": "shapes"}})
