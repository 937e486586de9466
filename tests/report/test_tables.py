"""Every table holds the values of result.json."""

import csv
import io
import json
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from rdt.prompts import write_rows
from rdt.report import columns, tables
from rdt.report.__main__ import main
from rdt.report.compare import compare
from rdt.report.read import read_runs
from rdt.report.write import report
from rdt.result import read
from rdt.training.folder import fail
from worlds.run_folders import write_run

HOSTILE = ("[/red]", "\x1b]0;x\x07\x9b31m", "=cmd|'/C calc'!A0", "a\nb\u2028c", "猫\u202e", "x" * 5000)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_names_do_nothing_to_terminal_picture_and_spreadsheet(tmp_path, capsys, name):
    place = name[:20].replace("/", "")
    for method in (name, "draft"):
        write_run(tmp_path / (method[0] + place), method, label=name, model=name, reward=name)
        write_rows(tmp_path / (method[0] + place) / "samples", [name])
    fail(tmp_path / f"broken{place}", name)
    assert main([f"runs={tmp_path}", f"out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable() and ("[/red]" in printed) == (name == "[/red]")
    fromstring((tmp_path / "out" / "front.svg").read_bytes())  # raises ParseError unless it is well-formed
    for table in ("front.csv", "duels.csv"):
        text = (tmp_path / "out" / table).read_bytes().decode()
        rows = csv.reader(io.StringIO(text, newline=""))
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]


def test_front_csv_holds_every_point_of_every_result(sweep):
    report([sweep], sweep)
    rows = list(csv.DictReader((sweep / "front.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows].count("base") == 2
    for row in rows:
        result = json.loads((Path(row["path"]) / "result.json").read_text())
        wanted = result["base"] if row["kind"] == "base" else result["points"][0]
        assert float(row["reward/hps"]) == wanted["reward"]["hps"]["mean"]
        assert [float(row["diversity/entropy_lo"]), float(row["diversity/entropy_hi"])] == wanted["diversity"][
            "entropy"
        ]["ci95"]
        assert (row["reward/gold_diff"] == "") == (row["kind"] == "base")


def test_the_latex_table_escapes_special_characters(tmp_path):
    write_run(tmp_path / "0", "sqdf_x", 0, label="50% & more")
    report([tmp_path], tmp_path / "out")
    table = (tmp_path / "out" / "front.tex").read_text()
    assert r"sqdf\_x" in table and table.count(r"\\") == 3 and r"\pm" in table  # head, base, one group
    assert not (tmp_path / "out" / "duels.csv").exists()  # of one method


def test_the_latex_table_states_paired_differences_and_marks_the_best(sweep):
    report([sweep], sweep / "out")
    head, base, *groups = [line for line in (sweep / "out" / "front.tex").read_text().splitlines() if "&" in line]
    assert head.startswith(r" & hps $\uparrow$ & gold $\uparrow$ & entropy $\uparrow$ & hacking gap $\downarrow$ & kl")
    assert base.startswith("base & $0.2") and [line.split(" & ")[0] for line in groups] == ["draft", "sqdf"]
    assert all("$+0.0" in line or r"\mathbf{+0.0" in line for line in groups)
    assert r"$\mathbf{+0.0" in groups[0].split(" & ")[1] and r"\mathbf" not in groups[1].split(" & ")[1]
    report([sweep], sweep / "out", absolute=True)
    assert "$+0.0" not in (sweep / "out" / "front.tex").read_text()


def test_names_begin_no_command_in_latex_and_no_markup_in_markdown(tmp_path):
    write_run(tmp_path / "0", "[x]", label="a | b\n\n# <img src=x> [l](javascript:x)", model="m\n\\input{x}")
    report([tmp_path], tmp_path / "out")
    table = (tmp_path / "out" / "front.tex").read_text()
    assert "{[}x{]}" in table and not [line for line in table.splitlines() if line.startswith(("[", "\\input"))]
    head, *_ = tables.card_table(read(tmp_path / "0")).splitlines()
    assert head == "|  | `base` | `tuned` | difference |"


@pytest.fixture
def images_column(monkeypatch):
    """Add a column that is no score, the images that training drew, to the list that all tables print."""
    before = columns.measured_columns

    def images(row):
        return columns.plain(float(sum(run.result.compute["images"] for run in row.runs)))

    added = columns.Column("compute/drawn_images", images, form="{:.0f}".format, spread=False)
    monkeypatch.setattr(columns, "measured_columns", lambda comparison: [*before(comparison), added])


def test_a_new_column_appears_in_every_table(sweep, images_column, capsys):
    """The column holds the 960 images that each of the two runs drew."""
    (comparison,) = compare(read_runs([sweep])[0])
    report([sweep], sweep)
    printed = capsys.readouterr().out
    assert "drawn_images" in printed and "960" in printed
    page = (sweep / "report.html").read_text()
    assert 'data-name="drawn_images"' in page and "<b>960</b>" in page
    assert "<dt>drawn_images </dt><dd>960</dd>" in page and "<option>drawn_images</option>" in page
    tex = (sweep / "front.tex").read_text()
    assert r"drawn\_images" in tex and "$960$" in tex
    rows = list(csv.DictReader((sweep / "front.csv").read_text().splitlines()))
    assert {row["compute/drawn_images"] for row in rows} == {"960.0"}
    names, values = tables.wandb_rows(comparison)
    assert [row[names.index("compute/drawn_images")] for row in values] == [1920, 960, 960]
    paired = [row[names.index("reward/hps_diff")] for row in values]
    assert paired == [None, *(group.scores["reward/hps"].diff.mean for group in comparison.groups)]
    assert all(len(row) == len(names) for row in values)
    assert "| `compute/drawn_images` | 960 | 960 |  |\n" in tables.card_table(read(sweep / "0"))


def test_a_table_shows_the_columns_that_name_it(sweep):
    """Only the cards state the share of diversity that is left, and only front.csv and the scatter state the time."""
    (comparison,) = compare(read_runs([sweep])[0])
    titles = {table: [column.title for column in columns.columns_of(comparison, table)] for table in columns.TABLES}
    assert titles["terminal"] == titles["front.tex"] == ["hps", "gold", "entropy", "hacking gap", "kl"]
    assert titles["page cards"] == ["hps", "gold", "entropy", "kept", "hacking gap", "kl"]
    assert titles["page"] == titles["wandb"] == titles["model card"]
    assert titles["page"] == ["hps", "gold", "entropy", "hacking gap", "vendi", "residual", "kl"]
    assert titles["front.csv"] == [*titles["page"], "seconds"]
    assert titles["page scatter"] == [*titles["page"], "passes", "TFLOP", "seconds"]


def test_cards_state_the_share_of_diversity_that_is_left(sweep):
    runs = read_runs([sweep])[0]
    (comparison,) = compare(runs)
    (column,) = [one for one in columns.measured_columns(comparison) if one.name == "kept"]
    for group in comparison.groups:
        run, name = group.runs[0], "diversity/entropy"
        tuned, base = run.result.tuned.scores[name].value.mean, comparison.base[name].value.mean
        assert column.value(columns.group_row(group)).value.mean == pytest.approx(tuned / base)


def test_the_base_cost_nothing(sweep):
    report([sweep], sweep)
    rows = csv.DictReader((sweep / "front.csv").read_text().splitlines())
    assert {(row["kind"], row["seconds"]) for row in rows} == {("base", "0.0"), ("point", "12.5")}
