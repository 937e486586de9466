"""The dashboard shows what runs log, and refuses in one line what it cannot save."""

import json
import sys

import pytest

from rdt import dashboard

NAMES = ["entity=me", "project=rdt"]


def test_the_workspace_shows_what_runs_log():
    pytest.importorskip("wandb_workspaces")
    made = dashboard.workspace(dashboard.chosen_settings([*NAMES, "reward=gold", "diversity=vendi"]))
    shown = {section.name: section.panels for section in made.sections}
    assert list(shown) == ["Front", "Sweep", "Samples", "Training"] and all(shown.values())
    scatter = shown["Front"][0]
    assert (scatter.x.name, scatter.y.name) == ("final/diversity/vendi", "final/reward/gold")
    keys = [key for panel in [*shown["Front"], *shown["Samples"]] for key in getattr(panel, "media_keys", [])]
    assert keys == ["pareto/front", "samples/base", "samples/tuned", "pareto/samples"]
    section = json.loads(made._to_model().model_dump_json())["spec"]["section"]  # what would be sent
    assert [one["name"] for one in section["panel_bank_config"]["sections"]] == list(shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["entity=me"], "project= is missing"),
        ([*NAMES, "rewrd=hps"], "'rewrd=hps' is none of entity=..."),
        ([*NAMES, "reward="], "'reward=' is none of"),
    ],
)
def test_wrong_arguments_give_a_one_line_error(refused, arguments, words):
    assert words in refused(*arguments)


def test_a_missing_extra_gives_the_command_that_installs_it(refused, monkeypatch):
    for name in ("wandb_workspaces", "wandb_workspaces.workspaces"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refused(*NAMES) == f"error: {dashboard.INSTALL}\n"


def test_a_missing_account_gives_the_command_that_logs_in(refused, monkeypatch, tmp_path):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert refused(*NAMES) == f"error: {dashboard.LOGIN}\n"


@pytest.fixture
def refused(monkeypatch, capsys):
    """Return a function that runs the command with arguments and returns its one-line error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rdt dashboard", *arguments])
        assert dashboard.entry() == 1
        out, line = capsys.readouterr()
        assert out == "" and line.count("\n") == 1
        return line

    return call
