#!/usr/bin/env bash
# SQDF at its defaults on the embedded world, three seeds: what `make run` does, with intervals over seeds too.
# Run from the repository root; about 8 minutes on two CPU cores. Finished runs are kept: start it again after an interruption.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-outputs/quickstart}
for seed in 0 1 2; do
  [ -f "$runs/default-s$seed/result.json" ] && continue
  $python -m rdt.run method=sqdf reward=hps seed=$seed logger=csv output_dir="$runs/default-s$seed" </dev/null
done
$python experiments/quickstart/table.py "$runs" experiments/quickstart
