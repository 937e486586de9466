"""Runs `python -m rdt.study`."""

import sys

from rdt.study.commands import entry

sys.exit(entry())
