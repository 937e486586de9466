"""What pages insert: tables read from conf/, experiments/ and benchmarks/, links in them standing as from docs/.

So no number of a table is written by hand, and what is not measured yet says so.
"""

import ast
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keys import CONF, ROOT, about, comments, lineage, settings
from omegaconf import OmegaConf

MODELS = ("shapes", "shapes_flow")
COST = ROOT / "benchmarks/results/cost.csv"


def defaults(method: str) -> str:
    """Keys of a method: its own values, and where the embedded world's models have others, those."""
    yaml = CONF / "method" / f"{method}.yaml"
    if not yaml.is_file():
        return f"There is no `conf/method/{yaml.name}` yet."
    own = settings(CONF / "config.yaml", yaml)
    files = [CONF / "setting" / f"{model}_{method}.yaml" for model in MODELS]
    theirs = [settings(file) if file.is_file() else {} for file in files]
    said = comments(CONF / "config.yaml")
    for file in lineage(yaml):
        said |= {f"method.{key.removeprefix('method.')}": word for key, word in comments(file).items()}
    rows = (
        [code(key), code(value), *(code(other[key]) if key in other else "" for other in theirs), said.get(key, "")]
        for key, value in own.items()
    )
    shown = table(["key", "default", *(f"on `{model}`" for model in MODELS), ""], rows)
    return "\n\n".join([shown, *(about(file) for file in files if file.is_file())])


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
    """Keys of a guidance and their values."""
    file = CONF / "guidance" / f"{name}.yaml"
    said, keys = comments(file), OmegaConf.to_container(OmegaConf.load(file))
    shown = {k: v for k, v in keys.items() if k not in ("name", "knob") and not isinstance(v, dict)}
    return table(["key", "default", ""], ([code(f"guidance.{k}"), code(v), said.get(k, "")] for k, v in shown.items()))


def rewards() -> str:
    """Every reward and what its yaml begins with."""
    files = sorted((CONF / "reward").glob("*.yaml"))
    lines = (file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files)
    rows = ([code(file.stem), line.rpartition(".")[0] + "."] for file, line in zip(files, lines, strict=True))
    return table(["reward", ""], rows)


def methods() -> str:
    """Every page under methods/: its title and its first sentence."""
    rows = []
    for page in sorted((ROOT / "docs/methods").glob("*.md")):
        title, _, text = page.read_text(encoding="utf-8").partition("\n")
        sentence = re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0]
        rows.append([f"[{title.lstrip('# ')}](methods/{page.name})", " ".join(sentence.split())])
    return table(["method", ""], rows)


def figure(result: str) -> str:
    """A picture of experiments/, nothing while there is none."""
    picture = f"experiments/{result}.png"
    return f"![The measured front]({picture})" if (ROOT / picture).is_file() else ""


def measured(result: str, *rows: str) -> str:
    """The tables of a result in experiments/; only the rows that begin so, where any are named."""
    text = ROOT / f"experiments/{result}.md"
    if not text.is_file():
        return f"Not measured yet: there is no `experiments/{result}.md`."
    return "\n\n".join(selected(text.read_text(encoding="utf-8").strip().split("\n\n"), rows))


def costs(*names: str) -> str:
    """Network passes of one iteration, of these methods or of all."""
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
    """Blocks of Markdown without the title; with names, the tables' rows of those names and what introduces them."""
    said: list[str] = []
    for block in blocks:
        if not block.startswith("|"):
            said += [] if block.startswith("# ") else [block]
            continue
        head, rows = block.splitlines()[:2], block.splitlines()[2:]
        kept = [row for row in rows if not names or row.split("|")[1].strip() in names]
        yield from [*said, "\n".join([*head, *kept])] if kept else []
        said = []


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (head, *rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def code(value: Any) -> str:
    """`value` as yaml writes it."""
    return f"`{json.dumps(value) if value is None or isinstance(value, bool) else value}`"
