"""A run in report.html: the command that repeats it, what it cost, what it stood on, its config."""

import json
import shlex
from html import escape
from typing import Any

from rdt.report.gather import overrides
from rdt.report.records import Run
from rdt.report.text import number

UNITS = {"seconds": (1, "s"), "peak_memory_bytes": (2**30, "GiB peak memory"), "tflop": (1, "TFLOP")}


def command(run: Run) -> str:
    """What to type to repeat the run."""
    typed = overrides(run) or []
    given = {item.lstrip("+~").partition("=")[0] for item in typed}
    chosen = {"method": run.method, "reward": run.reward, "model": run.model, "seed": run.seed}
    if overrides(run) is None:
        chosen["iterations"] = run.iterations
    words = [f"{key}={value}" for key, value in chosen.items() if key not in given] + typed
    return shlex.join(["python", "-m", "rdt.run", *words])


def run_html(run: Run, opened: bool) -> str:
    """A block that opens on the details."""
    versions = " · ".join(f"{name} {version}" for name, version in run.versions.items())
    guidance = "".join(
        f"<p>{escape(p.label or 'point')}: <code>{escape(json.dumps(p.guidance))}</code></p>" for p in run.points
    )
    return (
        f"<details{' open' * opened}><summary>{escape(f'{run.method} on {run.reward}, {run.model}, seed {run.seed}')} "
        f'<span class="quiet">{run.iterations} iterations · {escape(str(run.path))}</span></summary>'
        f"<pre>{escape(command(run))}</pre>{guidance}<p>{escape(_compute(run.compute))}</p>"
        f'<p class="quiet">{escape(versions)}</p><pre>{escape(run.config_text) or "no config.yaml"}</pre></details>'
    )


def _compute(compute: dict[str, Any]) -> str:
    return " · ".join(_cost(name, value) for name, value in compute.items() if value is not None)


def _cost(name: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return f"{name} {value}"
    if name in UNITS:
        size, unit = UNITS[name]
        return f"{number(value / size)} {unit}"
    return f"{value:,.0f} {name.replace('_', ' ')}"
