"""A method's page takes formula and departures from the module's docstring, so that they are stated once."""

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "methods").glob("*.md"))

sys.path.insert(0, str(DOCS))
import hooks  # noqa: E402
import inserts  # noqa: E402


def section(page: Path, title: str) -> str:
    """Return the text of one section of a page, with its inserts made."""
    text = hooks.expanded(page.read_text(encoding="utf-8"), depth=1)
    return re.split(r"^## ", text.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0].strip()


def test_a_docstring_is_split_in_front_of_its_departures():
    formula, departures = inserts.stated("methods/draft_plus")
    assert "KL(tuned || base at x_i)" in formula and "Departure" not in formula
    assert departures.startswith("Departure") and "NeMo" in departures


def test_departures_do_not_repeat_the_heading_of_their_section():
    text = inserts.departures("methods/draft_plus")
    assert text[0].isupper() and not text.startswith("Departure")


def test_indented_lines_of_a_docstring_become_a_block_of_code():
    assert (
        inserts.markdown("It climbs\n    r - kl,\nover all steps.\n") == "It climbs\n\n    r - kl,\n\nover all steps."
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.parametrize("title", ["Formula", "Departures"])
def test_a_method_page_states_its_formula_and_its_departures(page, title):
    assert len(section(page, title)) > 60
