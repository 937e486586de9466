"""Reads W&B's offline files back with wandb itself."""

import json
import subprocess
import sys
from collections import defaultdict


def runs(out):
    """Return the records of each offline run in `out`/wandb, by type of record, in the order in which they started."""
    files = sorted(out.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.parent.name)
    return [read(file) for file in files]


def read(file):
    """Return the records of one file, by type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.splitlines()
    found = defaultdict(list)
    for record in map(json.loads, lines):
        found[record["type"]].append(record.get(record["type"]))
    return found


def records(out):
    """Return the records of the only run in `out`/wandb."""
    (only,) = runs(out)
    return only


def merged(found, kind):
    """Return all updates of "config" or "summary", or all items of "history"; later values replace earlier ones."""
    flat = {}
    for record in found[kind]:
        flat |= record.get("update") or record.get("item") or {}
    return flat
