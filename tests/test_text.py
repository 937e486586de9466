"""Any text is read as it was written or refused with its file, shown without harm, and never ends a command."""

import csv
import io
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt.errors import flat
from rdt.text import LINE, csv_cell, folded, lines_of, parse_json, printable, read_json, read_text
from worlds import children

ANY = st.text()
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
HOSTILE = "\x1b]0;title\x07\x9b31m\u202etxt.exe\n\r\t\ud83d[/red]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


@given(text=TEXTS, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_a_text_is_read_as_it_was_written_in_every_encoding_with_a_mark(folder, text, encoding):
    (folder / "t.txt").write_bytes(text.encode(encoding))
    assert read_text(folder / "t.txt") == text.removeprefix("\ufeff" if encoding == "utf-8" else "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\0", "has a NUL character in line 2"),
        ("a circle".encode("utf-16-le"), "NUL character in line 1: it is not text, or UTF-16"),
        (b"a\n\xff\xfe", "is not UTF-8 text: line 2 has byte 0xff"),
        ("Größe".encode("latin-1"), "is not UTF-8 text: line 1 has byte 0xf6"),
        (b"\xff\xfea", "is not UTF-16 text"),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_file_and_line(tmp_path, content, words):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_text(tmp_path / "t.txt")
    assert str(error.value).startswith(str(tmp_path / "t.txt"))


@given(
    lines=st.lists(TEXTS.filter(lambda text: not LINE.search(text)), min_size=1),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_only_line_ends_end_a_line(lines, end):
    assert lines_of(end.join(lines)) == lines


@pytest.mark.parametrize("text", ["[" * 200_000, "{" * 9, "[1, 2", '{"a": }', "9" * 5000])
def test_json_that_cannot_be_read_is_one_kind_of_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"^is not JSON"):
        parse_json(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="is not JSON") as error:
        read_json(tmp_path / "x.json")
    assert str(error.value).startswith(str(tmp_path / "x.json"))


def test_half_a_character_is_refused_in_a_json_file_and_a_whole_one_is_read(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(["a \ud83d"]))
    with pytest.raises(ValueError, match=r"has \\ud83d: half of a character"):
        read_json(file)
    file.write_text(json.dumps(["a 😀"]))  # escaped as two halves
    assert read_json(file) == ["a 😀"]


@given(ANY)
def test_what_is_shown_is_one_printable_line_that_any_output_takes(text):
    for shown in (printable(text), folded(text), flat(ValueError(text))):
        assert shown.encode().decode() == shown and len(shown.splitlines()) <= 1
        assert all(c.isprintable() or c in "\u200c\u200d" for c in shown)
    assert len(printable(text, 20)) <= 20


def test_what_can_be_read_stays_and_what_acts_on_a_terminal_does_not():
    assert printable("猫 Ünï–😀 [/red]  ~/a b") == "猫 Ünï–😀 [/red]  ~/a b"
    assert folded(HOSTILE) == r"\x1b]0;title\x07\x9b31m\u202etxt.exe \ud83d[/red]"
    assert printable("a" * 300, 200) == "a" * 198 + " …"


@given(st.lists(ANY, min_size=1))
def test_no_cell_of_a_table_is_a_formula_and_numbers_stay_numbers(cells):
    row = [*map(csv_cell, cells)]
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row)
    out = io.StringIO()
    csv.writer(out).writerow(row)
    assert out.getvalue().encode()
    assert csv_cell(-1.5) == -1.5 and csv_cell("a-b") == "a-b" and csv_cell("=1+1") == "'=1+1"


@pytest.mark.parametrize(
    "output",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_output_degrades_to_what_its_encoding_has(output):
    code = (
        "from rdt.errors import one_line\n"
        "from rich.console import Console\nfrom rich.table import Table\nfrom rich.progress import track\n"
        "with one_line():\n"
        "    print('\\u732b \\xb1 \\xd7 \\ud83d')\n"
        "    table = Table('\\u0394'); table.add_row('\\u732b'); Console().print(table)\n"
        "    list(track(range(2), 'a \\u2022 b'))\n"
        "    raise ValueError('\\u2013 \\u732b \\x1b[31m')\n"
    )
    done = children.run([sys.executable, "-c", code], text=False, env=os.environ | output)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"error: ") and rb"\x1b[31m" in done.stderr
    assert rb"\ud83d" in done.stdout and b"a " in done.stdout
    if {"ascii", "C"} & {*output.values()}:
        assert done.stdout.startswith(rb"\u732b ~ x \ud83d") and done.stdout.isascii()
