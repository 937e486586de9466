"""W&B's offline files, read back by wandb itself."""

import json
import subprocess
import sys
from collections import defaultdict


def runs(out):
    """What wandb reads in each of the runs right below out, by type of record, in the order of their start."""
    files = sorted(out.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.parent.name)
    return [read(file) for file in files]


def read(file):
    """The records of one file, by type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    found = defaultdict(list)
    for record in map(json.loads, lines):
        found[record["type"]].append(record.get(record["type"]))
    return found


def records(out):
    """Those of the one run below out."""
    (only,) = runs(out)
    return only


def merged(found, kind):
    """All updates of "config" or "summary" or all items of "history", the later over the earlier."""
    flat = {}
    for record in found[kind]:
        flat |= record.get("update") or record.get("item") or {}
    return flat
