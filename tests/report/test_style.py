"""Colours and shapes tell methods apart for every reader, on white and on dark pages."""

import re
from importlib.resources import files
from itertools import combinations
from math import gcd

import numpy as np
import pytest

from rdt.report.style import COLOURS, INK, MARKERS, QUIET, SHAPES

# Viénot, Brettel and Mollon 1999, on linear RGB
BLIND = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}
LAB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    """Return a colour such as "#0072b2" as linear RGB (3,)."""
    values = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    """Return linear RGB (3,) in CIELAB (3,)."""
    t = LAB @ rgb / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def variables(scheme):
    """Return the colours of the page by name, in the light or the dark scheme."""
    css = (files("rdt.report") / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    pairs = re.findall(r"--(\w+): (#\w+)", light if scheme == "light" else dark)
    return {name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:]) for name, value in pairs}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_from_the_page(scheme):
    page = variables(scheme)
    for name in ("ink", "quiet", "up", "down", "accent"):
        assert contrast(page[name], page["paper"]) >= 4.5, name
    for colour in COLOURS:
        assert contrast(colour, page["paper"]) >= 3, colour
    assert contrast(page["quiet"], page["soft"]) >= 4.5 and contrast(page["down"], page["warn"]) >= 4.5
    assert contrast(INK, "#ffffff") >= 7 and contrast(QUIET, "#ffffff") >= 4.5


@pytest.mark.parametrize("kind", BLIND)
def test_colours_differ_for_colour_blind_readers(kind):
    seen = [lab(np.clip(np.array(BLIND[kind]) @ linear(colour), 0, 1)) for colour in COLOURS]
    pairs = combinations(range(len(COLOURS)), 2)
    near = {(i, j): float(np.linalg.norm(seen[i] - seen[j])) for i, j in pairs}
    assert min(near.values()) > 15, near


def test_every_combination_of_colour_and_shape_is_used_once_before_one_repeats():
    assert gcd(len(COLOURS), len(SHAPES)) == 1 and set(MARKERS) == set(SHAPES)
    script = (files("rdt.report") / "chart.js").read_text()
    assert all(f'{shape}: "' in script for shape in SHAPES)
