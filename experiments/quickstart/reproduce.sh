#!/usr/bin/env bash
# SQDF at its defaults and without its safeguards, three seeds each, on the embedded world.
# Run from the repository root; about 20 minutes on two CPU cores. Finished runs are kept: start it again after an interruption.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-outputs/quickstart}
only=${ONLY:-default collapse}
for seed in 0 1 2; do
  while read -r name overrides; do
    case " $only " in *" $name "*) ;; *) continue ;; esac
    [ -f "$runs/$name-s$seed/result.json" ] && continue
    # shellcheck disable=SC2086
    $python -m rdt.run method=sqdf reward=hps seed=$seed logger=csv output_dir="$runs/$name-s$seed" $overrides </dev/null
  done <<'VARIANTS'
default
collapse method.kl_coef=0 method.gamma=1 method.replay=on_policy method.replay_ratio=1
VARIANTS
done
if [ "$only" = "default collapse" ]; then $python experiments/quickstart/table.py "$runs" experiments/quickstart; fi
