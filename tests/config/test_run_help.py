"""`rdt run --help` begins with methods, rewards and models, and imports no heavy library."""

import sys
from pathlib import Path

from rdt.config.run_help import EXAMPLES, GROUPS, options, run_help
from rdt.targets import conf_dir
from worlds import children


def test_the_help_begins_with_methods_rewards_and_models_and_ends_with_every_key(tmp_path):
    code = "import sys; sys.argv = ['rdt run', '--help']; from rdt.run import entry\ntry: entry()\n"
    code += "finally: print(*{'torch', 'lightning', 'matplotlib'} & set(sys.modules), 'loaded', file=sys.stderr)"
    done = children.run([sys.executable, "-c", code], cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "loaded\n" and not list(tmp_path.iterdir())
    assert done.stdout.startswith(run_help())
    heads = [line.partition("=")[0] for line in done.stdout.splitlines() if not line.startswith(" ") and "=  " in line]
    assert heads[:3] == ["method", "reward", "model"] and heads == list(GROUPS)
    assert "\nkl_coef" not in done.stdout and "\niterations: " in done.stdout


def test_the_help_names_every_choice_and_examples_of_real_choices():
    assert {"sqdf", "draft_plus", "drift"} <= set(options("method")) and "published" not in options("model")
    assert all((Path(conf_dir()) / group).is_dir() for group in GROUPS)
    for word in " ".join(EXAMPLES).split():
        group, _, names = word.partition("=")
        if group in GROUPS:
            assert set(names.split(",")) <= set(options(group))
