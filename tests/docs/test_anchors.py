"""Every link to a heading finds it; mkdocs checks the same, where it is installed."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#([^)]+)\)")

sys.path.insert(0, str(DOCS))
import hooks  # noqa: E402


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs and GitHub make them of plain ASCII headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_heading_finds_it(page):
    text = page.read_text(encoding="utf-8")
    shown = hooks.expanded(text, len(page.relative_to(DOCS).parts) - 1) if page.is_relative_to(DOCS) else text
    for target, anchor in LINK.findall(shown):
        assert anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"
