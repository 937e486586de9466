"""The hooks of mkdocs: `<!-- insert KIND ARGUMENT.. -->` is replaced by an insert, and a formula by MathML."""

import html
import re
import shlex
from typing import Any

from inserts import INSERTS
from keys import ROOT

INSERT = re.compile(r"^<!-- insert (\w+) *(.*?) *-->$", re.MULTILINE)
LOCAL_LINK = re.compile(r"\]\((?!https?:|#)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def expanded(markdown: str, depth: int) -> str:
    """Return a page's text with its inserts; `depth` folders lie between docs/ and the page."""

    def made(found: re.Match) -> str:
        return LOCAL_LINK.sub("](" + "../" * depth, INSERTS[found[1]](*shlex.split(found[2])))

    return INSERT.sub(made, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return expanded(markdown, page.file.src_uri.count("/"))


def on_page_content(content: str, **_: Any) -> str:
    from latex2mathml.converter import convert  # installed with mkdocs, by the docs extra

    def formula(found: re.Match) -> str:
        return convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline")

    return FORMULA.sub(formula, content)


def on_files(files: Any, config: Any) -> Any:
    """Add the figures of experiments/ to the files of the site."""
    from mkdocs.structure.files import File

    for picture in ROOT.glob("experiments/*/*.png"):
        where = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, where, abs_src_path=str(picture)))
    return files
