"""The first lines of `rdt run --help`: examples, then what can be chosen, methods, rewards and models first."""

import sys
from textwrap import fill

from rdt.targets import options

FLAGS = ("-h", "--help")
GROUPS = {
    "method": "how the model is trained",
    "reward": "what is maximised",
    "model": "what is trained; shapes is bundled and needs neither network nor GPU",
    "guidance": "how the trained model is sampled",
    "sweep": "with -m: one training for each of several values",
    "without": "leaves out one part of a method",
    "experiment": "a complete setting",
    "logger": "where curves go, besides metrics.csv",
    "prompts": "what images are made of",
    "diversity": "how diversity is measured",
}
EXAMPLES = (
    "rdt run method=sqdf reward=hps",
    "rdt run method=draft_plus reward=hps method.kl_coef=0.3 iterations=200 dry_run=true",
    "rdt run -m method=sqdf,draft_plus seed=0,1,2",
    "rdt run -m sweep=kl method=draft_plus",
    "rdt run method=drift reward=pickscore model=sd15 devices=4",
)


def print_run_help(arguments: list[str]) -> None:
    """Print the lines if the arguments ask for help; Hydra prints the config after them."""
    if any(word in FLAGS for word in arguments):
        sys.stdout.write(run_help())
        sys.stdout.flush()


def run_help() -> str:
    """Return how to call the command and what each group offers."""
    lines = ["usage: rdt run [key=value ...]    train on a reward, evaluate, record, report", ""]
    for group, about in GROUPS.items():
        lines.append(f"{group}=  {about}")
        lines.append(fill(", ".join(options(group)), 100, initial_indent="  ", subsequent_indent="  "))
    lines += ["", "examples:", *(f"  {example}" for example in EXAMPLES), "", ""]
    return "\n".join(lines)
