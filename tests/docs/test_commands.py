"""Every command that README.md and docs/ print works as printed.

A command on the embedded world is planned here, in this process, and run at the smallest size by the slow test. One
that reads a finished run gets one. What takes real weights, a server or an account is composed or planned.
"""

import re
import shlex
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from rdt.cli import COMMANDS
from worlds.smallest_run import OVERRIDES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "experiments").rglob("README.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```|((?:^    \S.*\n)+)", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python -m rdt\.|rdt )[^`]+)`")
FIRST = re.compile(r"(?:python -m (rdt[\w.]*)|(rdt|make|pip|python|hf|wandb) )")
PLUG_IN = "python -m rdt.run --config-dir conf method=draft1 reward=redness"
NOT_RUN = {  # a command that no test here can run, and who runs it
    PLUG_IN: "tests/test_extension.py runs it beside its files",
    "python -m rdt.study tally votes/*.json": "tests/study tallies votes, which people give",
    "python -m rdt.shapes.pretrain --start <weights>": "trains for hours; its module is looked up below",
    "python -m rdt.<name>": "stands for every command",
    "rdt <name>": "stands for every command",
    "rdt view <dir>": "serves until Ctrl-C; tests/view asks it for its pages",
    "python -m rdt.evaluate run=<dir> checkpoints=all": "needs early checkpoints, as tests/test_evaluate.py has",
    "rdt run -m": "names the kind of run; the page's other lines are typed",
}
COMPOSED = (  # printed runs that are composed and not planned
    "sweep=pareto",  # a search needs the results of its jobs
    "source=/data/sdxl",  # a folder that stands for the reader's
    "init_lora=/data/lora",
    "train_file=train.jsonl",
    "logger=tensorboard",  # needs an extra
    "logger=trackio",
)
EXTERNAL = {"make", "pip", "python", "hf", "wandb"}
REAL = re.compile(r"model=(sd15|sdxl|sd3|flux)|experiment=real/|reward=remote")


def printed() -> dict[str, str]:
    """Return every command line of the pages, without its comment, with the page that prints it first."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = ("".join(block).replace("\\\n", " ").splitlines() for block in BLOCK.findall(text))
        lines = [line.strip() for block in blocks for line in block if FIRST.match(line.strip())]
        for line in (*lines, *(" ".join(inline.split()) for inline in INLINE.findall(text))):
            found.setdefault(re.sub(r"\s+# .*", "", line), page.relative_to(ROOT).as_posix())
    return found


PRINTED = printed()
TYPED = [line for line in PRINTED if line.split()[0] not in EXTERNAL or line.startswith("python -m rdt.")]
RUN = [line for line in TYPED if line not in NOT_RUN]


@pytest.fixture
def typed(run_folder, tmp_path, monkeypatch, answered):
    """Return a function that runs a command line in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RDT_TRACEBACK", raising=False)
    monkeypatch.setattr("rdt.weights.refusal", lambda place: "no answer")

    def answer(line: str, *more: str):
        name, words = command(line)
        entry = import_module(COMMANDS[name].module or f"rdt.{name}").entry
        return answered(entry, *(filled(word, run_folder) for word in words), *more)

    return answer


def command(line: str) -> tuple[str, list[str]]:
    """Return the name of an rdt command and its words as a shell hands them on; brackets mark what may be left out."""
    words = shlex.split(line.replace("<dir or glob>", "<dir>").replace("[", "[" if "'" in line else "").replace(
        "]", "]" if "'" in line else ""))  # fmt: skip
    return (words[2].removeprefix("rdt."), words[3:]) if words[0] == "python" else (words[1], words[2:])


def filled(word: str, folder: Path) -> str:
    """Return a word with a finished run in place of <dir>, or a folder of this test for what is written."""
    return word.replace("<dir>", "made" if word.startswith("out=") else str(folder))


def of_one_machine(line: str) -> str:
    """Return a sweep on a cluster without its launcher, which tests/training/test_launchers.py runs, and shorter."""
    if "hydra/launcher=" not in line:
        return line
    words = [word for word in line.split() if not re.match(r"\+?hydra[./]launcher", word)]
    return re.sub(r"(seed|method\.lr|method\.kl_coef)=([^,\s]+)\S*", r"\1=\2", " ".join(words))


@pytest.mark.parametrize("line", [line for line in RUN if command(line)[0] == "run"])
def test_a_printed_run_is_planned(line, typed):
    composed, line = any(word in line for word in COMPOSED), of_one_machine(line)
    words = ["--cfg", "job"] if composed else ["dry_run=true"]
    status, out, err = typed(
        line.replace("rdt.run -m ", "rdt.run ") if composed else line,
        *words,
        *(["devices=1"] if "devices=" in line else []),
    )
    assert status == 0 and err == "" and out, (line, err)


@pytest.mark.parametrize("line", [line for line in RUN if command(line)[0] not in ("run", "dashboard")])
def test_a_printed_command_on_a_finished_run_works(line, typed, run_folder, tmp_path):
    for folder in ("run", "outputs/day/run"):
        shutil.copytree(run_folder, tmp_path / folder)
    name, words = command(line)
    line = line.replace("<dir or glob>", "run").replace("<dir>", "run")
    line = line.replace("<owner>/<name>", "owner/name")
    if name == "evaluate" and "model=" in line:  # planned, as a run is
        line = line.replace("rdt.evaluate -m ", "rdt.evaluate ").replace("lora=run,null", "lora=run")
        status, out, err = typed(line, "dry_run=true")
        assert status == 0 and err == "" and "nothing was loaded" in out, err
        return
    smaller = {"serve": ["--cfg", "job"], "sample": ["n=1"], "study": ["pairs=1", "set=1"]}
    status, out, err = typed(line, *smaller.get(name, []) if words else ["--help"])
    assert status == 0 and err == "" and out, (PRINTED.get(line, line), err)


def test_the_printed_dashboard_has_the_keys_that_it_needs():
    from rdt.dashboard import chosen_settings

    for line in (line for line in RUN if command(line)[0] == "dashboard"):
        assert chosen_settings(
            command(line)[1]
        )  # saving takes an account, tests/test_dashboard.py builds the workspace


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in RUN if command(line)[0] == "run" and not REAL.search(line)])
def test_a_printed_run_on_the_embedded_world_ends_with_a_result(line, typed, tmp_path):
    if any(word in line for word in COMPOSED) or "-m " in line.partition("rdt.run")[2]:
        pytest.skip("a sweep runs in tests/training/test_sweep.py; its plan is tested above")
    smaller = [word for word in OVERRIDES if "batch_size" not in word and not ("num_steps" in word and ".K=" in line)]
    logger = "logger.wandb.mode=offline" if "logger.wandb" in line else "logger=csv"
    status, _, err = typed(line, *smaller, logger, "output_dir=out")
    assert status == 0 and err == "" and (tmp_path / "out/result.json").is_file()


def test_what_is_not_run_is_still_printed():
    assert set(NOT_RUN) <= set(TYPED)
    assert find_spec("rdt.shapes.pretrain")


@pytest.mark.parametrize("line", [line for line in PRINTED if line not in TYPED])
def test_other_printed_commands_name_what_is_there(line):
    """Targets of the Makefile, extras of this distribution, and scripts; the tools of others are theirs."""
    program, *words = shlex.split(line.replace("<", "").replace(">", ""))
    if program == "make":
        assert all(re.search(rf"^{word}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE) for word in words)
    if program == "pip":
        extras = [found[1] for word in words if (found := re.fullmatch(r"\.\[(\w+)\]", word))]
        assert words[:4] == ["install", "-c", "constraints.txt", "-e"] and extras, (
            "`rdt` on the index is another project"
        )
        assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text("utf-8") for extra in extras)
    if program == "python":
        assert (ROOT / words[0]).is_file()
