"""The README's own method and reward, run as a user would: two files each, in a folder outside the checkout."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ("method", "reward")
SMALL = [
    "iterations=2", "batch_size=2", "model.sampling.num_steps=3", "logger=csv", "output_dir=out", "evaluation.every=0",
    "evaluation.prompts=2", "evaluation.images_per_prompt=2", "evaluation.kl_images=1", "evaluation.limit.points=2",
]  # fmt: skip


def blocks(example: str) -> list[str]:
    """The code blocks between an example's markers."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- example:{example} -->\n(.*?)<!-- /example -->", readme, re.DOTALL)
    assert found, f"README.md has no <!-- example:{example} --> ... <!-- /example -->"
    return re.findall(r"```\w*\n(.*?)```", found[1], re.DOTALL)


def files(example: str) -> dict[str, str]:
    """Blocks that name their file in a first comment."""
    named = (re.match(r"# (\S+)\n", block) for block in blocks(example))
    return {name[1]: name.string for name in named if name}


def command() -> list[str]:
    """The one command of the examples."""
    (line,) = [b for example in EXAMPLES for b in blocks(example) if b.startswith("python -m ")]
    return [sys.executable, *shlex.split(line)[1:]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_one_short_file_and_one_yaml(example: str) -> None:
    code = [text for name, text in files(example).items() if name.endswith(".py")]
    config = [name for name in files(example) if name.endswith(".yaml")]
    assert len(code) == 1 and len(config) == 1 and config[0].startswith(f"conf/{example}/")
    lines = [line for line in code[0].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 15


def test_the_readme_examples_run_together(tmp_path: Path) -> None:
    for name, text in (files("method") | files("reward")).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command(), *SMALL], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert (result["method"], result["reward"], result["iterations"]) == ("draft1", "redness", 2)
    assert {"redness", "gold", "judge"} <= result["points"][0]["reward"].keys()
    with (tmp_path / "out" / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["iteration"] for row in rows] == ["0", "1"]
    assert all(-1 <= float(row["train/reward"]) <= 1 for row in rows)
    assert (tmp_path / "out" / "lora" / "pytorch_lora_weights.safetensors").is_file()
