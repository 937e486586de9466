"""The curves and pictures of runs that may still be training, as a piece of the page."""

from collections.abc import Sequence

from rdt.report.curves import DASHES, Traced, drawn_curves, read_curves, with_pictures
from rdt.report.gallery import Address
from rdt.report.grids import prompts_of
from rdt.report.over_time import Frames, over_time_html, pictures_of
from rdt.report.style import COLOURS
from rdt.view.state import RunState

MOST = 12  # runs that are drawn together
METRICS = "metrics.csv"


def live_html(runs: Sequence[RunState], address: Address) -> str:
    """Return the pictures and curves of the first runs; a sentence if there is nothing to draw yet."""
    runs = runs[:MOST]
    traced = [_traced(k, run) for k, run in enumerate(runs)]
    frames = [_frames(run) for run in runs]
    pictures = over_time_html([one for one in frames if one.pictures], address)
    return with_pictures(pictures, drawn_curves(traced)) or '<p class="quiet">Nothing was logged yet.</p>'


def _traced(place: int, run: RunState) -> Traced:
    """Return the curves of a run in a colour and dashes that no other one has."""
    dash = DASHES[place // len(COLOURS) % len(DASHES)]
    return Traced(run.shown["title"], COLOURS[place % len(COLOURS)], dash, read_curves(run.path / METRICS))


def _frames(run: RunState) -> Frames:
    return Frames(run.shown["title"], prompts_of(run.path / "samples"), tuple(pictures_of(run.path)))
