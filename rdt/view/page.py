"""The pages of `rdt view`: the list of runs, and the report that says when one of its runs has changed."""

from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from rdt.text import printable


def index_html(root: Path, nonce: str, note: str = "") -> str:
    """Return the list of runs, which its script fills and keeps up to date."""
    report, own = files("rdt.report"), files("rdt.view")
    scripts = [(report / "time.js").read_text("utf-8"), (report / "panel.js").read_text("utf-8")]
    return Template((report / "page.html").read_text("utf-8")).substitute(
        title="Runs",
        subtitle=escape(printable(root)),
        style=(report / "page.css").read_text("utf-8") + (own / "view.css").read_text("utf-8"),
        body=(f'<p class="failed">{escape(note)}</p>' if note else "") + (own / "view.html").read_text("utf-8"),
        nonce=f' nonce="{nonce}"',
        script="\n".join([*scripts, (own / "view.js").read_text("utf-8")]),
    )


def watched(page: str, version: str, nonce: str) -> str:
    """Return a report with a bar that leads back, and says when the runs of the report have changed."""
    own = files("rdt.view")
    bar = '<nav class="tools"><a href="./">All runs</a> <span role="status" id="changed"></span></nav>'
    script = (own / "watch.js").read_text("utf-8")
    code = f'<script nonce="{nonce}" data-version="{escape(version)}" id="watch">"use strict";\n{script}</script>'
    return page.replace("<body>", f"<body>{bar}", 1).replace("</body>", f"{code}</body>", 1)
