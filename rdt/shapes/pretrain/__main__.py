"""`python -m rdt.shapes.pretrain` rebuilds every bundled weight of the embedded world from a seed."""

import argparse
from pathlib import Path

import torch

from rdt.shapes.pretrain import bundle

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def main() -> None:
    """Run the stages of the command line, resuming unfinished ones; all together they write and check the bundle."""
    parser = argparse.ArgumentParser(prog="python -m rdt.shapes.pretrain", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("pretrained/work"), help="checkpoints of unfinished stages")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the finished weights")
    parser.add_argument("--start", type=Path, help="folder of weights to start from, laid out as --out is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stages", nargs="+", choices=tuple(bundle.STAGES), default=list(bundle.STAGES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # denormal numbers are many times slower
    for name in arguments.stages:
        print(f"stage {name}", flush=True)
        bundle.STAGES[name](bundle.Paths(arguments.start, arguments.work, arguments.out, arguments.seed))


if __name__ == "__main__":
    main()
