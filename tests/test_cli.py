"""The `rdt` command lists its commands, names the nearest one, completes words, and finds plug-ins where it is run."""

import os
import sys
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rdt import cli
from worlds import children

ROOT = Path(__file__).resolve().parent.parent


def rdt(folder: Path, *words: str, **environment: str) -> CompletedProcess[str]:
    """Run the console script in a folder; the working directory is not on its path at first, as with a script."""
    code = "import sys; sys.argv[0] = 'rdt'; sys.path.remove(''); from rdt.cli import main; main()"
    return children.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]], ids=" ".join)
def test_without_a_command_it_lists_the_commands_and_five_examples(words, tmp_path):
    done = rdt(tmp_path, *words)
    assert done.returncode == 0 and done.stderr == "" and not list(tmp_path.iterdir())
    lines = done.stdout.splitlines()
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in cli.COMMANDS)
    assert sum(line.startswith("  rdt ") for line in lines) == len(cli.EXAMPLES) == 5


WRONG = {
    "run": ["iterations=0"],
    "evaluate": ["run=nowhere"],
    "sample": ["run=nowhere", "prompt=x"],
    "report": ["runs=nowhere"],
    "study": ["runs=nowhere"],
    "serve": ["port=x"],
    "dashboard": ["entity=x"],
}


@pytest.mark.parametrize("words", [[name, *words] for name, words in WRONG.items()], ids=" ".join)
def test_what_is_refused_is_one_line_and_status_1_in_every_command(words, tmp_path):
    assert WRONG.keys() == cli.COMMANDS.keys()
    done = rdt(tmp_path, *words)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("error: "), done
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["report", "study", "dashboard"])
def test_a_command_without_its_keys_shows_its_usage_as_an_error(name, tmp_path):
    done = rdt(tmp_path, name)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("usage: ")


@pytest.mark.parametrize("name", [*cli.COMMANDS, "nosuch", "token=0123456789abcdef"])
@pytest.mark.parametrize("word", ["token=0123456789abcdef", "runs=https://user:0123456789abcdef@host/x"])
def test_no_command_repeats_a_credential(name, word, tmp_path):
    done = rdt(tmp_path, name, word)
    assert done.returncode == 1 and "0123456789abcdef" not in done.stdout + done.stderr and done.stderr.count("\n") == 1


def test_the_list_needs_neither_hydra_nor_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['rdt']; from rdt.cli import main; main(); print({'hydra', 'torch'} & set(sys.modules))"
    )
    done = children.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute", "run=x"], "evalute is not a command; did you mean rdt evaluate?"),
        (["nosuch"], "nosuch is not a command; there are run, evaluate"),
        (["method=sqdf", "a=b c"], "method=sqdf is not a command; to train with it: rdt run method=sqdf 'a=b c'"),
        (["--cfg", "job"], "--cfg is not a command; to train with it: rdt run --cfg job"),
    ],
)
def test_what_is_no_command_is_one_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rdt", *words])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {said}") and err.count("\n") == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_an_entry_and_completes_the_keys_that_it_reads(name):
    module = import_module(cli.COMMANDS[name].module or f"rdt.{name}")
    assert callable(module.entry)
    read = {f"{key}=" for key in getattr(module, "KEYS", {})}
    assert read <= set(cli.COMMANDS[name].keys)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rdt ", list(cli.COMMANDS)),
        ("rdt ev", ["evaluate"]),
        ("rdt run method=dra", ["method=draft", "method=draft_lv", "method=draft_plus"]),
        ("rdt run -m sweep=se", ["sweep=seeds"]),
        ("rdt run method.kl", ["method.kl_coef=", "method.kl_min_std=", "method.kl_reference="]),
        (
            "rdt evaluate guidance=",
            ["guidance=aig", "guidance=best_of", "guidance=cads", "guidance=cfg", "guidance=lora_scale"],
        ),
        ("rdt report r", ["runs="]),
        ("rdt nosuch x", []),
    ],
)
def test_commands_groups_and_keys_are_completed(line, offered, tmp_path):
    done = rdt(tmp_path, "-sc", "query=bash", COMP_LINE=line)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.split() == offered


def test_bash_completes_after_the_printed_line(tmp_path):
    """As README says: eval "$(rdt -sc install=bash)"."""
    script = tmp_path / "rdt"
    script.write_text(f"#!{sys.executable}\nfrom rdt.cli import main\nmain()\n")
    script.chmod(0o755)
    typed = (
        'eval "$(rdt -sc install=bash)"; COMP_WORDS=(rdt run method=sq); COMP_CWORD=2; COMP_LINE="rdt run method=sq"'
    )
    done = children.run(
        ["bash", "-c", f'{typed}; hydra_bash_completion 2>/dev/null; echo "${{COMPREPLY[@]}}"; complete -p rdt'],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "method=sqdf", done.stderr
    assert done.stdout.splitlines()[1].endswith("-F hydra_bash_completion rdt")
