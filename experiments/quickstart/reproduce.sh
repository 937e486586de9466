#!/usr/bin/env bash
# SQDF against itself without its safeguards, three seeds each, on the embedded world; about 20 minutes on two CPU cores.
# Run from the repository root; finished runs are kept, so it can be interrupted and started again.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-outputs/quickstart}
for seed in 0 1 2; do
  while read -r name overrides; do
    [ -f "$runs/$name-s$seed/result.json" ] && continue
    # shellcheck disable=SC2086
    $python -m rdt.run method=sqdf reward=hps seed=$seed logger=csv output_dir="$runs/$name-s$seed" $overrides
  done <<'VARIANTS'
default
collapse method.kl_coef=0 method.gamma=1 method.replay=on_policy method.replay_ratio=1
VARIANTS
done
$python experiments/quickstart/table.py "$runs" experiments/quickstart
