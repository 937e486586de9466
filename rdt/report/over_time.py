"""Images of a training over its iterations, with a slider beside the curves that shows the iteration in them too."""

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rdt.report.compare import Comparison
from rdt.report.gallery import Address
from rdt.report.grids import data_uri, is_readable, prompts_of
from rdt.report.scatter import varied_settings

RUNS, FRAMES = 12, 24  # at most, of a comparison and of a run; the others stay in the run folders
WIDE, BYTES = 720, 4_000_000  # most pixels across a picture, and bytes of all pictures of a page
NAME = re.compile(r"\d{6,9}\.png")  # of a picture; nothing else is read


@dataclass(frozen=True)
class Frames:
    """Holds the pictures of one run by iteration, and the prompts of their rows."""

    title: str
    prompts: tuple[str, ...]
    pictures: tuple[tuple[int, Path], ...]


def frames_of(comparison: Comparison) -> list[Frames]:
    """Return the pictures of the first runs that drew at least two."""
    varied = varied_settings(comparison.runs)
    found: list[Frames] = []
    for run in comparison.runs:
        pictures = pictures_of(run.path)
        if len(pictures) > 1 and len(found) < RUNS:
            title = f"{run.result.method} {varied[run.path]}".strip() + f", seed {run.result.seed}"
            found.append(Frames(title, prompts_of(run.path / "samples"), thinned(pictures)))
    return found


def pictures_of(folder: Path) -> list[tuple[int, Path]]:
    """Return the readable pictures of a run folder by iteration."""
    named = [path for path in (folder / "samples").glob("[0-9]*.png") if NAME.fullmatch(path.name)]
    return [(int(path.stem), path) for path in sorted(named) if is_readable(path)]


def thinned(pictures: list[tuple[int, Path]]) -> tuple[tuple[int, Path], ...]:
    """Return at most FRAMES pictures, evenly spread, with the first and the last."""
    last = len(pictures) - 1
    kept = sorted({round(k * last / (FRAMES - 1)) for k in range(FRAMES)}) if last >= FRAMES else range(last + 1)
    return tuple(pictures[k] for k in kept)


def over_time_html(frames: list[Frames], address: Address | None = None) -> str:
    """Return a picture with a slider over iterations for every run; empty if no run drew any.

    Without addresses the pictures are part of the page.
    """
    count = sum(len(one.pictures) for one in frames)
    embed = address or (lambda path: data_uri(path, WIDE, BYTES // count))
    return "".join(_slider(one, embed) for one in frames)


def _slider(one: Frames, address: Address) -> str:
    found = [[iteration, address(path)] for iteration, path in one.pictures]
    data, last = json.dumps(found).replace("<", "\\u003c"), len(found) - 1
    rows = "".join(f"<span>{escape(prompt)}</span>" for prompt in one.prompts)
    title = escape(one.title)
    return (
        f'<figure class="time"><figcaption><b>{title}</b></figcaption>'
        f'<label>iteration <input type="range" min="0" max="{last}" value="{last}" step="1"> <output></output></label>'
        f'<div class="pair"><div class="rows">{rows}</div><button type="button" class="enlarge" '
        f'aria-label="enlarge the samples of {title}"><img class="pixels" alt="samples of {title} while training" '
        f'src="{found[-1][1]}"></button></div><script type="application/json">{data}</script></figure>'
    )
