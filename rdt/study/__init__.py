"""Lets people compare settings blindly: study.html is for the raters, key.json for the researcher, and a tally counts.

`python -m rdt.study runs=<dir or glob>[,...] pairs=60 [set=4]`, then `python -m rdt.study tally votes/*.json`
"""

from rdt.study.commands import entry

__all__ = ["entry"]
