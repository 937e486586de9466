"""Prompt sets: every file format is read, splits never overlap, and wrong files are refused in one line."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import assume, given
from hypothesis import strategies as st

from rdt import weights
from rdt.config.compose import composed
from rdt.prompts import check_disjoint, from_file, joined, packaged, random_split, read_rows, without, write_rows
from rdt.stream import subset
from rdt.text import LINE
from rdt.weights import MissingCheckpoint, Place
from worlds import children

PROMPTS = ["a cat", "a dog, very happy", "Ünïcode “quotes”\u2028and a line mark", "x"]


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_prompts_are_read_without_torch():
    code = "import sys, rdt.prompts; rdt.prompts.packaged(name='simple_animals'); sys.exit('torch' in sys.modules)"
    assert children.run([sys.executable, "-c", code]).returncode == 0


def test_a_text_file_gives_each_line_once(tmp_path):
    assert from_file(path=written(tmp_path / "p.txt", "a cat\r\n\n  a dog \na cat\n")) == ["a cat", "a dog"]


def test_json_lines_and_json_files_give_a_column(tmp_path):
    rows = [{"caption": prompt, "n": 1} for prompt in PROMPTS]
    lines = written(tmp_path / "p.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert from_file(path=lines, key="caption") == PROMPTS
    assert from_file(path=written(tmp_path / "p.json", json.dumps(rows)), key="caption") == PROMPTS
    assert from_file(path=written(tmp_path / "q.json", json.dumps(PROMPTS))) == PROMPTS
    assert from_file(path=written(tmp_path / "q.jsonl", json.dumps("a cat"))) == ["a cat"]


def test_parquet_gives_a_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"caption": [*PROMPTS, None], "n": [1, 2, 3, 4, 5]}), file)
    assert from_file(path=str(file), key="caption") == PROMPTS
    with pytest.raises(ValueError, match="has no column key=prompt; it has caption, n"):
        from_file(path=str(file), key="prompt")
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a readable Parquet file"):
        from_file(path=str(file), key="caption")


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install .* '\.\[parquet\]'"):
        from_file(path=written(tmp_path / "p.parquet", "x"), key="caption")


@pytest.mark.parametrize(
    ("name", "text", "key", "message"),
    [
        ("p.txt", "\n  \n", None, "is empty"),
        ("p.txt", "a cat", "caption", "has no columns, so no key=caption"),
        ("p.jsonl", '{"caption": "a"}\n\n{"caption": \n', "caption", "line 3 is not JSON"),
        ("p.jsonl", '{"caption": "a"}\n{"text": "b", "n": 1}', "caption", "line 2 has no key=caption; it has text, n"),
        ("p.jsonl", '{"caption": "a", "n": 1}', None, "line 1 is an object; give the key .* caption, n"),
        ("p.jsonl", '{"caption": 3}', "caption", "line 1 is int, expected a string"),
        ("p.json", '{"caption": "a"}', "caption", "holds dict, expected a list"),
        ("p.json", '["a", 3]', None, "entry 2 is int, expected a string"),
        ("p.json", "[", None, "is not JSON"),
        ("p.json", "[]", None, "is empty"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(tmp_path, name, text, key, message):
    with pytest.raises(ValueError, match=message) as error:
        from_file(path=written(tmp_path / name, text), key=key)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_the_animals_are_the_published_ones():
    train, held_out = packaged(name="simple_animals"), packaged(name="simple_animals_held_out")
    assert (len(train), len(held_out)) == (45, 6)
    assert train[0] == "cat" and train[-1] == "kangaroo" and held_out[0] == "snail"
    check_disjoint(train, held_out)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_split_is_a_partition_that_its_seed_fixes(share):
    prompts = [f"prompt {i}" for i in range(50)]
    train, held_out = (random_split(prompts=prompts, name=name, share=share, seed=3) for name in ("train", "held_out"))
    assert sorted([*train, *held_out]) == sorted(prompts) and len(held_out) == 50 * share
    check_disjoint(train, held_out)
    assert held_out == random_split(prompts=prompts, name="held_out", share=share, seed=3)
    assert held_out != random_split(prompts=prompts, name="held_out", share=share, seed=4)


def test_a_split_with_an_empty_part_or_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"share=0\.01 holds out 0 of 9"):
        random_split(prompts=list("abcdefghi"), name="train", share=0.01, seed=0)
    with pytest.raises(ValueError, match="split='test' is not one of train, held_out"):
        random_split(prompts=list("abcdefghi"), name="test", share=0.5, seed=0)


def test_sets_are_joined_subtracted_and_checked_for_overlap():
    both = joined(sets={"one": ["a", "b"], "two": ["b", "c"]})
    assert both == ["a", "b", "c"]
    assert without(prompts=["c", "d", "e"], others=both) == ["d", "e"]
    with pytest.raises(ValueError, match="1 of 2 held-out prompts are trained on too, first 'b'"):
        check_disjoint(["a", "b"], ["c", "b"])


def test_a_subset_keeps_order_and_takes_all_prompts_if_there_are_fewer():
    prompts = [f"prompt {i}" for i in range(20)]
    chosen = subset(prompts=prompts, count=5, seed=1)
    assert len(chosen) == 5 and chosen == sorted(chosen, key=prompts.index)
    assert subset(prompts=prompts, count=99, seed=1) == prompts


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Return a data set of which the hub's cache holds one file."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "refusal", lambda place: "no answer")
    folder = tmp_path / "datasets--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "train.json").write_text('[{"prompt": "a cat"}]')
    return "dataset:owner/name"


def test_a_data_set_of_the_hub_is_read_from_the_cache(cached, monkeypatch):
    for name in ("try_to_load_from_cache", "hf_hub_download"):
        whole = getattr(__import__("huggingface_hub"), name)
        monkeypatch.setattr(
            f"huggingface_hub.{name}", lambda *a, w=whole, **k: w(*a, cache_dir=constants.HF_HUB_CACHE, **k)
        )
    weights.check_source(f"{cached}:train.json")
    assert from_file(path=f"{cached}:train.json", key="prompt") == ["a cat"]
    with pytest.raises(MissingCheckpoint, match=r"data set 'dataset:owner/name:test\.json'.*--repo-type dataset"):
        weights.check_source(f"{cached}:test.json")
    with pytest.raises(MissingCheckpoint, match="no answer"):
        from_file(path=f"{cached}:test.json", key="prompt")


def test_a_place_prints_as_its_source():
    place = Place.of("owner/name@v2:data/train.jsonl", "dataset")
    assert str(place) == "dataset:owner/name@v2:data/train.jsonl"
    assert str(Place.of("owner/name")) == "hub:owner/name"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(str.strip).filter(bool)
LINES = TEXT.filter(lambda text: not LINE.search(text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompts")


def table(rows, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def encoded(prompts, suffix):
    """Return the text of a file of prompts, in a column beside another one if the format has columns."""
    rows = [{"n": 1, "a, b": prompt} for prompt in prompts]
    match suffix:
        case ".txt":
            return "\n".join(prompts)
        case ".json":
            return json.dumps(rows)
        case ".jsonl":
            return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        case _:
            return table([["n", "a, b"], *([1, prompt] for prompt in prompts)], {".csv": ",", ".tsv": "\t"}[suffix])


@given(data=st.data(), suffix=st.sampled_from([".txt", ".json", ".jsonl", ".csv", ".tsv"]), mark=st.booleans())
def test_any_prompts_survive_every_format_that_can_hold_them(folder, data, suffix, mark):
    prompts = data.draw(st.lists(LINES if suffix == ".txt" else TEXT, min_size=1, unique=True))
    file = folder / f"p{suffix}"
    file.write_bytes(encoded(prompts, suffix).encode("utf-8-sig" if mark else "utf-8"))
    expected = [prompts[0].removeprefix("\ufeff").strip(), *prompts[1:]] if suffix == ".txt" and not mark else prompts
    assume(all(expected) and len(set(expected)) == len(expected))
    assert from_file(path=str(file), key=None if suffix == ".txt" else "a, b") == expected


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_the_rows_of_pictures_are_as_many_as_their_prompts(folder, prompts):
    write_rows(folder, prompts)
    assert read_rows(folder) == tuple(prompts)


@pytest.mark.parametrize("content", ["", "{}", '["a", 1]', "[" * 100_000])
def test_rows_that_cannot_be_read_name_their_file(tmp_path, content):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "prompts.json"))):
        read_rows(tmp_path)


def test_a_byte_order_mark_hides_no_overlap(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfa circle\n")
    assert from_file(path=str(tmp_path / "t.txt")) == ["a circle"]
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a circle"}')
    assert from_file(path=str(tmp_path / "t.jsonl"), key="prompt") == ["a circle"]


@pytest.mark.parametrize(
    ("name", "text", "key", "message"),
    [
        ("h.jsonl", '{"prompt": "a"}\n{"prompt": "a \\ud83d"}', "prompt", r"line 2 has \\ud83d: half of a character"),
        ("h.json", '["a \\udc00"]', None, r"entry 1 has \\udc00"),
        ("h.json", '["a\\u0000b"]', None, "entry 1 has a NUL"),
        ("h.jsonl", "[" * 100_000, None, "line 1 is not JSON that can be read: it is nested too deep"),
        ("h.txt", "a\n\0", None, "has a NUL character in line 2"),
        ("p.tsv", "Prompt\tNote\na\tb", None, "has 2 columns, Prompt, Note: give the key"),
        ("p.tsv", "Prompt\tNote\na\tb", "prompt", "expected one that is named key=prompt"),
        (
            "p.csv",
            "a circle\na ring",
            None,
            "has 1 column, a circle: give the key of its prompts, or name the file .txt",
        ),
        ("p.csv", "n,p\n1,a ring, red", "p", "line 2 has 3 fields and the header has 2"),
        ("p.csv", "n,p\n1", "p", "line 2 has 1 fields"),
        ("p.csv", 'n,p\n1,"a" ring', "p", "line 2 is not a row"),
        ("p.csv", "p,p\na,b", "p", "expected one that is named key=p"),
        ("p.csv", "", "p", "is empty"),
    ],
)
def test_what_no_prompt_can_be_is_refused_with_its_line(tmp_path, name, text, key, message):
    with pytest.raises(ValueError, match=message) as error:
        from_file(path=written(tmp_path / name, text), key=key)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_quotation_marks_of_a_tsv_are_text_unless_they_enclose_fields(tmp_path):
    rows = 'Prompt\tNote\n"Hi" she said\tx\nthe word "Hi"\ty\n'
    assert from_file(path=written(tmp_path / "p.tsv", rows), key="Prompt") == ['"Hi" she said', 'the word "Hi"']
    assert from_file(path=written(tmp_path / "q.TSV", 'p\n"a\nb"\n'), key="p") == ["a\nb"]


def test_each_file_has_its_own_key():
    files = ["prompts=file", "prompts.train_file=a.jsonl", "prompts.held_out_file=b.txt"]
    cfg = composed("config", *files, "prompts.train_key=prompt")
    assert (cfg.prompts.train.key, cfg.prompts.held_out.key) == ("prompt", None)
    cfg = composed("config", *files, "prompts.key=text", "prompts.held_out_key=null")
    assert (cfg.prompts.train.key, cfg.prompts.held_out.key) == ("text", None)
