"""A method, a reward and a model are added from outside the checkout: one yaml each, and one module for new code.

The method and the reward are the README's own examples.
"""

import csv
import json
import os
import re
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from worlds import children

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ("method", "reward")
SMALL = [
    "iterations=2", "batch_size=2", "model.sampling.num_steps=3", "logger=csv", "output_dir=out", "evaluation.every=0",
    "evaluation.prompts=2", "evaluation.images_per_prompt=2", "evaluation.kl_images=1", "evaluation.limit.points=2",
]  # fmt: skip
MODEL = """
name: small
policy:
  _target_: rdt.models.sd15.build
  source: bundled:base
  consistency: null
lora:
  rank: 2
  alpha: 2
  targets: [to_q]
sampling:
  num_steps: 3
  eta: 1.0
  guidance_scale: 1.0
"""
RULES = """
kind: plain
strength: 0.5
plan:
  num_steps: 2
rules:
  kind: plain | fancy (needs model.policy.consistency)
  strength: greater than 0 and at most 1
"""


def blocks(example: str) -> list[str]:
    """Return the code blocks between an example's markers."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- example:{example} -->\n(.*?)<!-- /example -->", readme, re.DOTALL)
    assert found, f"README.md has no <!-- example:{example} --> ... <!-- /example -->"
    return re.findall(r"```\w*\n(.*?)```", found[1], re.DOTALL)


def files(example: str) -> dict[str, str]:
    """Return the blocks whose first line is a comment with the name of their file."""
    named = (re.match(r"# (\S+)\n", block) for block in blocks(example))
    return {name[1]: name.string for name in named if name}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the examples and a model of a known family into a folder of their own."""
    for name, text in (files("method") | files("reward") | {"conf/model/small.yaml": MODEL}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(folder: Path, *overrides: str) -> CompletedProcess[str]:
    """Run the one command of the examples with more overrides."""
    (line,) = [b for example in EXAMPLES for b in blocks(example) if b.startswith("python -m ")]
    words = [sys.executable, *shlex.split(line)[1:], *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return children.run(words, cwd=folder, env=environment)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_one_short_file_and_one_yaml(example: str) -> None:
    code = [text for name, text in files(example).items() if name.endswith(".py")]
    config = [name for name in files(example) if name.endswith(".yaml")]
    assert len(code) == 1 and len(config) == 1 and config[0].startswith(f"conf/{example}/")
    lines = [line for line in code[0].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 15


@pytest.mark.parametrize("model", [pytest.param("shapes", marks=pytest.mark.slow), "small"])
def test_the_plug_ins_run_together(folder: Path, model: str) -> None:
    done = run(folder, *SMALL, f"model={model}")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
    found = [result[key] for key in ("method", "reward", "model", "iterations")]
    assert found == ["draft1", "redness", model, 2]
    assert {"redness", "gold", "judge"} <= result["points"][0]["reward"].keys()
    with (folder / "out" / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["iteration"] for row in rows] == ["0", "1"]
    assert all(-1 <= float(row["train/reward"]) <= 1 for row in rows)
    assert (folder / "out" / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method.kind=other"], "method.kind=other is not one of plain, fancy"),
        (["method.strength=2"], "method.strength=2 must be greater than 0 and at most 1"),
        (
            ["method.kind=fancy", "model=small"],
            "needs model.policy.consistency, which is not set; set method.kind=plain",
        ),
        (["method.lr=fast"], "method.lr=fast is a text, expected a number such as 0.001"),
    ],
)
def test_a_plug_in_states_its_own_refusals(folder: Path, overrides: list[str], words: str) -> None:
    with (folder / "conf/method/draft1.yaml").open("a", encoding="utf-8") as file:
        file.write(RULES)
    done = run(folder, *overrides, "dry_run=true")
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1


def test_the_console_command_finds_a_plug_in_where_it_is_run(folder: Path) -> None:
    """`rdt run` has the working directory on its path, as `python -m rdt.run` has."""
    (line,) = [b for example in EXAMPLES for b in blocks(example) if b.startswith("python -m ")]
    code = "import sys; sys.path.remove(''); from rdt.cli import main; main()"
    words = [sys.executable, "-c", code, "run", *shlex.split(line)[3:], *SMALL, "devices=2", "logger=none"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = children.run(words, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "result.json").is_file()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("draft1.py", "import nosuch", "draft1.py imports nosuch, which is not installed"),
        ("draft1.py", "def f(:", "draft1.py line 1 is not valid Python"),
        ("draft1.py", "Draft2 = 1", "draft1.py has no Draft1; did you mean Draft2?"),
        ("redness.py", None, "reward._target_=redness.Redness cannot be imported: there is no module redness"),
    ],
)
def test_a_dry_run_finds_what_cannot_be_imported(folder: Path, file: str, text: str | None, words: str) -> None:
    whole = "" if text is None or "Draft2" in text else (folder / file).read_text(encoding="utf-8")
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(f"{text}\n{whole}", encoding="utf-8")
    done = run(folder, "dry_run=true")
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_key_that_the_class_of_a_plug_in_does_not_take_is_one_line(folder: Path) -> None:
    with (folder / "conf/method/draft1.yaml").open("a", encoding="utf-8") as file:
        file.write("gama: 1\n")
    done = run(folder, *SMALL)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "draft1.Draft1: " in done.stderr and "unexpected keyword argument 'gama'" in done.stderr


def test_a_plug_in_states_what_its_plan_counts(folder: Path) -> None:
    with (folder / "conf/method/draft1.yaml").open("a", encoding="utf-8") as file:
        file.write(RULES)
    done = run(folder, "dry_run=true")
    assert done.returncode == 0 and " 2 sampling steps" in done.stdout
