"""Every method has a page with the same sections, and every link and insert of a page works; mkdocs is not needed."""

import re
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rdt.config.compose import composed

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SECTIONS = ["Formula", "Defaults", "Departures", "Measured front", "Cost"]
PAGES = sorted(DOCS.rglob("*.md"))
METHODS = sorted((DOCS / "methods").glob("*.md"))
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")

sys.path.insert(0, str(DOCS))
import hooks  # noqa: E402
import inserts  # noqa: E402


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def made(page: Path) -> str:
    """Return the page as mkdocs gets it."""
    return hooks.expanded(text(page), len(page.relative_to(DOCS).parts) - 1)


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def test_every_method_has_a_page():
    assert {file.stem for file in (ROOT / "conf/method").glob("*.yaml")} <= {page.stem for page in METHODS}


def test_every_page_is_in_the_navigation_once():
    def leaves(entry):
        return [entry] if isinstance(entry, str) else [leaf for part in _parts(entry) for leaf in leaves(part)]

    nav = OmegaConf.to_container(OmegaConf.load(ROOT / "mkdocs.yml"))["nav"]
    assert sorted(leaves(nav)) == sorted(map(name, PAGES))


def _parts(entry):
    return entry.values() if isinstance(entry, dict) else entry


@pytest.mark.parametrize("page", METHODS, ids=name)
def test_a_method_page_has_an_introduction_of_five_lines_and_the_five_sections(page):
    title, introduction, *_ = re.split(r"\n\n", text(page))
    assert title.startswith("# ") and len(introduction.splitlines()) <= 5
    assert re.findall(r"^## (.+)$", text(page), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("page", METHODS, ids=name)
def test_a_method_page_inserts_its_own_defaults_and_costs(page):
    inserts = set(hooks.INSERT.findall(text(page)))
    if (ROOT / f"conf/method/{page.stem}.yaml").is_file():
        assert {("defaults", page.stem), ("costs", page.stem)} <= inserts
    assert any(kind == "measured" for kind, _ in inserts)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    """A figure of experiments/ is a file of the site, at the same path below docs/."""
    shown = made(page) if page in PAGES else text(page)
    for link in LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", shown, flags=re.DOTALL)):
        target = (page.parent / link).resolve()
        figure = target.is_relative_to(DOCS / "experiments") and (ROOT / target.relative_to(DOCS)).is_file()
        assert target.exists() or figure, link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_insert_is_made(page):
    assert "<!-- insert" not in made(page)


def test_a_missing_measurement_is_stated():
    assert inserts.measured("three_papers/nothing").startswith("Not measured yet")
    assert inserts.figure("three_papers/nothing") == ""


def test_selected_rows_keep_the_text_before_their_table():
    blocks = [
        "# Title",
        "Ends:",
        "| | a |\n|---|---|\n| x | 1 |\n| y | 2 |",
        "Fronts:",
        "| | a |\n|---|---|\n| z | 3 |",
    ]
    assert list(inserts.selected(blocks, ("y",))) == ["Ends:", "| | a |\n|---|---|\n| y | 2 |"]
    assert list(inserts.selected(blocks, ())) == blocks[1:]


@pytest.mark.parametrize("method", ["sqdf", "bbo", "drift", "gardo", "diverse_grpo", "aig"])
def test_default_tables_state_what_a_run_composes(method):
    """An empty column means the default; interpolations are shown as the yaml writes them."""
    shown = inserts.defaults(method).partition("\n\n")[0].splitlines()[2:]
    rows = {key: values for key, *values in ([cell.strip("| `") for cell in line.split(" | ")] for line in shown)}
    cfg = composed("config", f"method={method}", "model=shapes")
    named = {key.split(".")[1] for key in rows if key.startswith("method.")}
    assert set(cfg.method) - {"name", "plan", "_target_"} == named
    for key, (default, shapes, *_) in rows.items():
        if "${" not in default:
            assert inserts.code(OmegaConf.select(cfg, key)).strip("`") == (shapes or default), key


def test_a_key_is_explained_by_its_comment_and_its_rule():
    table = inserts.defaults("sqdf")
    row = next(line for line in table.splitlines() if line.startswith("| `method.gamma` | `0.9` | `0.97` | `0.97` |"))
    assert row.endswith("| greater than 0 and at most 1 | discount per remaining step; 1 turns it off |")
    assert r"| consistency (needs model.policy.consistency) \| tweedie \| n_step |" in table
    assert "`conf/tuned/sqdf/shapes.yaml`: SQDF on the embedded world" in table
    assert "`conf/tuned/sqdf/model/shapes_flow.yaml`: SQDF on the flow twin" in table


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_formula_converts_to_mathml(page):
    convert = pytest.importorskip("latex2mathml.converter").convert
    for formula in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.sub(r"`[^`\n]*`", "", text(page)), re.DOTALL):
        converted = convert("".join(formula))
        assert "\\" not in converted and converted.startswith("<math"), formula
