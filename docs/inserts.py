"""The inserts of pages: tables read from conf/, experiments/ and benchmarks/. Links in them are relative to docs/.

So no number of a table is written by hand, and a missing measurement is stated as missing.
"""

import ast
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keys import CONF, ROOT, about, comments, lineage, rules, settings, settings_on, tuned
from omegaconf import OmegaConf

MODELS = ("shapes", "shapes_flow")
COST = ROOT / "benchmarks/results/cost.csv"


def defaults(method: str) -> str:
    """Return the keys of a method: defaults, values on the embedded world's models, and what they may be."""
    yaml = CONF / "method" / f"{method}.yaml"
    if not yaml.is_file():
        return f"There is no `conf/method/{yaml.name}` yet."
    composed, allowed = [settings_on(method, model) for model in MODELS], rules(method)
    explained = comments(CONF / "config.yaml")
    for file in lineage(method):
        explained |= {f"method.{key.removeprefix('method.')}": word for key, word in comments(file).items()}
    rows = (
        [code(key), code(value), *("" if other[key] == value else code(other[key]) for other in composed),
         allowed.get(key, ""), explained.get(key, "")]
        for key, value in settings(method).items()
    )  # fmt: skip
    shown = table(["key", "default", *(f"on `{model}`" for model in MODELS), "may be", ""], rows)
    return "\n\n".join([shown, *map(about, tuned(method, "shapes", MODELS))])


def formula(*modules: str) -> str:
    """Return what the docstrings of modules under rdt/ state before their departures."""
    return "\n\n".join(markdown(stated(module)[0]) for module in modules)


def departures(*modules: str) -> str:
    """Return the departures that the docstrings of modules under rdt/ state; the page's heading says the word."""
    texts = (re.sub(r"^Departures?:\s+(.)", lambda found: found[1].upper(), stated(module)[1]) for module in modules)
    return "\n\n".join(map(markdown, texts))


def example(name: str) -> str:
    """Return a plug-in of the README, where a test runs it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition(f"<!-- example:{name} -->")[2].partition("<!-- /example -->")[0].strip()


def guidance(name: str) -> str:
    """Return the keys of a guidance, their defaults, and what they may be."""
    file = CONF / "guidance" / f"{name}.yaml"
    explained, keys = comments(file), OmegaConf.to_container(OmegaConf.load(file))
    allowed = keys.get("rules", {})
    shown = {k: v for k, v in keys.items() if k not in ("name", "knob", "rules", "passes", "_target_")}
    rows = ([code(f"guidance.{k}"), code(v), allowed.get(k, ""), explained.get(k, "")] for k, v in shown.items())
    return table(["key", "default", "may be", ""], rows)


def rewards() -> str:
    """Return every reward with the first sentence of its yaml."""
    files = sorted((CONF / "reward").glob("*.yaml"))
    lines = (file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files)
    rows = ([code(file.stem), line.rpartition(".")[0] + "."] for file, line in zip(files, lines, strict=True))
    return table(["reward", ""], rows)


def methods() -> str:
    """Return the title and the first sentence of every page under methods/."""
    rows = []
    for page in sorted((ROOT / "docs/methods").glob("*.md")):
        title, _, text = page.read_text(encoding="utf-8").partition("\n")
        sentence = re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0]
        rows.append([f"[{title.lstrip('# ')}](methods/{page.name})", " ".join(sentence.split())])
    return table(["method", ""], rows)


def figure(result: str) -> str:
    """Return a picture of experiments/, or nothing if it does not exist yet."""
    picture = f"experiments/{result}.png"
    return f"![The measured front]({picture})" if (ROOT / picture).is_file() else ""


def measured(result: str, *rows: str) -> str:
    """Return the tables of a result in experiments/, all rows of them or those that begin with a name."""
    text = ROOT / f"experiments/{result}.md"
    if not text.is_file():
        return f"Not measured yet: there is no `experiments/{result}.md`."
    return "\n\n".join(selected(text.read_text(encoding="utf-8").strip().split("\n\n"), rows))


def costs(*names: str) -> str:
    """Return the network passes of one iteration of these methods, or of all."""
    if not COST.is_file():
        return "Not measured yet: `python benchmarks/cost.py` does."
    with COST.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = [list(row.values()) for row in reader if not names or row["method"] in names]
    return table(reader.fieldnames or [], rows)


KINDS: tuple[Callable[..., str], ...] = (
    defaults, formula, departures, example, guidance, rewards, methods, figure, measured, costs,
)  # fmt: skip
INSERTS = {kind.__name__: kind for kind in KINDS}


def stated(module: str) -> tuple[str, str]:
    """Split a module's docstring, without its first line, in front of the sentence that begins with "Departure"."""
    source = (ROOT / f"rdt/{module}.py").read_text(encoding="utf-8")
    _, _, body = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    formula, *departures = re.split(r"(?=\bDepartures?\b)", body, maxsplit=1)
    return formula, "".join(departures)


def markdown(docstring: str) -> str:
    """Return part of a docstring as Markdown: indented lines become a block of code."""
    grouped = itertools.groupby(docstring.splitlines(), key=lambda line: line.startswith("    "))
    blocks = ("\n".join(lines).strip("\n").rstrip() for _, lines in grouped)
    return "\n\n".join(block for block in blocks if block)


def selected(blocks: list[str], names: tuple[str, ...]) -> Iterator[str]:
    """Yield blocks of Markdown without the title; with names, only their rows and the text before the table."""
    text: list[str] = []
    for block in blocks:
        if not block.startswith("|"):
            text += [] if block.startswith("# ") else [block]
            continue
        head, rows = block.splitlines()[:2], block.splitlines()[2:]
        kept = [row for row in rows if not names or row.split("|")[1].strip() in names]
        yield from [*text, "\n".join([*head, *kept])] if kept else []
        text = []


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (head, *rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def code(value: Any) -> str:
    """Return a value as yaml writes it."""
    return f"`{json.dumps(value) if value is None or isinstance(value, bool) else value}`"
