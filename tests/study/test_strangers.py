"""A rater's file, a key and a run's names come from strangers: nonsense is refused in one line, and nothing acts."""

import csv
import json
import shutil
from functools import reduce

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rdt.prompts import write_rows
from rdt.study import entry
from rdt.study.votes import read_key, read_votes

SETTINGS = ["base", "[/red]", "=1+1"]
SIDES = {"left": {"id": "l", "setting": "base"}, "right": {"id": "r", "setting": "[/red]"}}
KEY = {"kind": "rdt study key", "version": 1, "study": "abc", "set": 1, "seed": 0, "questions": ["quality", "overall"],
       "settings": SETTINGS, "pairs": [{"id": "p", "prompt": "a", **SIDES},
       {"id": "q", "prompt": "b", "left": {"id": "m", "setting": "=1+1"}, "right": {"id": "s", "setting": "base"}}],
       }  # fmt: skip
VOTE = {"pair": "p", "prompt": "a", "left": "l", "right": "r", "at": "2026-01-01T00:00:00.000Z",
        "answers": {"quality": "left", "overall": "tie"}, "seconds": 2.5}  # fmt: skip
OTHER = VOTE | {"pair": "q", "left": "m", "right": "s"}
BALLOT = {"kind": "rdt study votes", "version": 1, "study": "abc", "rater": "r1", "name": "", "votes": [VOTE, OTHER]}
DEEP = "[" * 60_000 + "]" * 60_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
PATHS = (
    [(key,) for key in BALLOT]
    + [("votes", 0, key) for key in VOTE]
    + [("votes", 0), ("votes", 0, "answers", "quality")]
)
KEY_PATHS = [(key,) for key in KEY] + [("pairs", 0), ("pairs", 0, "left"), ("pairs", 0, "left", "setting")]


def replaced(content, path, value):
    """Return the text of a file whose value at a path is another; a value that JSON cannot state is given as text."""
    copied = json.loads(json.dumps(content))
    reduce(lambda node, key: node[key], path[:-1], copied)[path[-1]] = "VALUE HERE"
    return json.dumps(copied).replace('"VALUE HERE"', value)


@pytest.fixture
def answer(tmp_path, capsys):
    """Return a function from the texts of votes and key to the exit status, the output and the errors of a tally."""

    def tally(votes, key=None):
        (tmp_path / "key.json").write_text(key or json.dumps(KEY))
        (tmp_path / "votes [1].json").write_text(votes, "utf-8")
        status = entry(["tally", str(tmp_path / "votes [1].json"), f"key={tmp_path / 'key.json'}"])
        return status, *capsys.readouterr()

    return tally


NONSENSE = [
    (("votes",), DEEP, "nested too deep"),
    (("votes",), "null", "NoneType, expected a list"),
    (("votes",), '{"0": 1}', "dict, expected a list"),
    (("version",), "true", "does not hold votes"),
    (("version",), "2", "does not hold votes"),
    (("study",), "[1]", "votes of study list"),
    (("rater",), "null", "expected a text"),
    (("rater",), '["a"]', "expected a text"),
    (("rater",), '" "', "not empty"),
    (("name",), "3", "expected two texts"),
    (("votes", 0, "seconds"), "NaN", "seconds=nan"),
    (("votes", 0, "seconds"), "Infinity", "seconds=inf"),
    (("votes", 0, "seconds"), "1e400", "seconds=inf"),
    (("votes", 0, "seconds"), "-1", "seconds=-1"),
    (("votes", 0, "seconds"), "true", "seconds=True"),
    (("votes", 0, "seconds"), '"3"', "seconds=3"),
    (("votes", 0, "seconds"), "9" * 401, "OverflowError"),
    (("votes", 0, "seconds"), "9" * 5000, "not JSON"),
    (("votes", 0, "at"), '"9999"', "9999"),
    (("votes", 0, "at"), '"9999-01-01T00:00:00Z"', "not a time before now"),
    (("votes", 0, "at"), '"0001-01-01"', "not a time before now"),
    (("votes", 0, "at"), "1", "expected a text"),
    (("votes", 0, "pair"), "[]", "expected a text"),
    (("votes", 0, "pair"), '"x"', "KeyError"),
    (("votes", 0, "answers"), '[["quality", "left"]]', "a vote cannot be read"),
    (("votes", 0, "answers", "quality"), "[]", "expected one of left, tie, right"),
    (("votes", 0, "answers", "quality"), '"\\ud83d"', "half of a character"),
    (("votes", 0, "answers", "quality"), '"\\u001b]0;x\\u0007"', r"\x1b]0;x\x07"),
]


@pytest.mark.parametrize(("path", "value", "words"), NONSENSE)
def test_nonsense_in_votes_is_refused_in_one_line_that_names_the_file(answer, path, value, words):
    status, out, error = answer(replaced(BALLOT, path, value))
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert words in error and "votes [1].json" in error and error[:-1].isprintable()


@pytest.mark.parametrize(
    ("path", "value"),
    [((key,), value) for key in ("pairs", "study", "settings", "questions") for value in ("null", "3", '{"a": 1}')]
    + [(("pairs", 0), "3"), (("pairs", 0, "left"), "null"), (("pairs", 0, "left", "setting"), '"other"')]
    + [(("pairs", 0), '{"id": "p"}'), (("settings", 0), "[]"), (("version",), "true"), (("pairs",), DEEP)],
)
def test_a_damaged_key_is_refused_in_one_line_that_names_the_file(answer, path, value):
    status, out, error = answer(json.dumps(BALLOT), replaced(KEY, path, value))
    assert (status, out, error.count("\n")) == (1, "", 1) and "key.json" in error


@pytest.mark.parametrize("part", ["pairs", "study", "settings", "questions", "kind", "version"])
def test_a_key_without_a_part_is_refused(answer, part):
    status, _, error = answer(json.dumps(BALLOT), json.dumps({k: v for k, v in KEY.items() if k != part}))
    assert status == 1 and "key.json" in error and error.count("\n") == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), key_path=st.sampled_from(KEY_PATHS), value=JSON, of_key=st.booleans())
def test_any_value_anywhere_is_counted_or_refused(tmp_path, path, key_path, value, of_key):
    text = json.dumps(value)
    (tmp_path / "key.json").write_text(replaced(KEY, key_path, text) if of_key else json.dumps(KEY))
    (tmp_path / "v.json").write_text(json.dumps(BALLOT) if of_key else replaced(BALLOT, path, text))
    try:
        read_votes([tmp_path / "v.json"], read_key(tmp_path / "key.json"))
    except ValueError as error:
        assert str(tmp_path) in str(error)


def test_settings_of_strangers_are_counted_without_markup_and_formulas(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, error = answer("\ufeff" + json.dumps(BALLOT))
    assert (status, error) == (0, "") and "[/red]" in out and "=1+1" in out
    rows = list(csv.DictReader((tmp_path / "tally.csv").read_text().splitlines()))
    assert [(row["first"], row["second"], row["votes"]) for row in rows] == [
        ("base", "[/red]", "1"), ("base", "'=1+1", "1")] * 2  # fmt: skip


PROMPTS = ["a circle\nred ring", "a\u2028b\x0b\x0c\x85c", "\x1b[31m </script>"]


def write_run(folder, method):
    """Write a run folder whose pictures have a row for each of PROMPTS and two columns."""
    (folder / "samples").mkdir(parents=True)
    point = {"diversity": {}, "fidelity": {}, "reward": {"hps": {"mean": len(method)}}, "per_prompt": {},
             "n_per_prompt": 2, "prompts": PROMPTS, "guidance": {"name": "\x1b[31m"}}  # fmt: skip
    known = {"schema": 2, "method": method, "reward": "hps", "model": "shapes", "seed": 0, "iterations": 9}
    (folder / "result.json").write_text(json.dumps(known | {"base": point, "points": [point]}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"evaluation": {"seed": 0, "grid": [3, 2]}, "overrides": []}))
    write_rows(folder / "samples", PROMPTS)
    for name in ("base", "tuned"):
        pixels = np.random.default_rng(len(method + name)).integers(0, 256, (3 * 66, 2 * 66, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "samples" / f"{name}.png")


def test_prompts_of_several_lines_keep_their_rows(tmp_path, capsys):
    for method in ("sqdf", "[/x]\x1b]0;y\x07"):
        write_run(tmp_path / "runs" / method[:3].replace("/", ""), method)
    shutil.copytree(tmp_path / "runs" / "sqd", tmp_path / "runs" / "twin")
    assert entry([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable() and "[/x]" in out and "is a copy of" in out
    key = json.loads((tmp_path / "out" / "key.json").read_text())
    assert {(pair["prompt"], pair["left"]["row"]) for pair in key["pairs"]} == {(p, k) for k, p in enumerate(PROMPTS)}
    page = (tmp_path / "out" / "study.html").read_text()
    assert "a circle red ring" in page and r"\\x1b[31m" in page and page.count("</script>") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "cannot be read: "),
        ("a: 1", "has no evaluation.grid"),
        ("evaluation: {grid: [3, x]}", "has no eval"),
    ],
)
def test_a_config_that_cannot_be_read_is_not_called_one_without_a_grid(tmp_path, capsys, text, words):
    for method in ("sqdf", "draft"):
        write_run(tmp_path / method, method)
    (tmp_path / "sqdf" / "config.yaml").write_text(text)
    assert entry([f"runs={tmp_path}"]) == 1
    assert f"sqdf/config.yaml {words}" in capsys.readouterr().err
