#!/usr/bin/env bash
# Run SQDF at its defaults and without its safeguards on the embedded world, five seeds each, and write the tables.
# Run it from the repository root; it takes less than ten minutes on two CPU cores. Start it again after an interruption:
# finished runs are kept.
set -euo pipefail
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE  # two runs at a time, one core each
export python=${PYTHON:-.venv/bin/python} runs=${RUNS:-outputs/quickstart}

one() {
  read -r name seed overrides <<<"$1"
  [ -f "$runs/$name-s$seed/result.json" ] && return
  # shellcheck disable=SC2086
  $python -m rdt.run method=sqdf reward=hps seed="$seed" logger=csv evaluation.prompts=96 output_dir="$runs/$name-s$seed" \
    $overrides </dev/null >"$runs/$name-s$seed.log" 2>&1
}
export -f one

mkdir -p "$runs"
while read -r name overrides; do
  for seed in 0 1 2 3 4; do echo "$name $seed $overrides"; done
done <<'VARIANTS' | xargs -P "${JOBS:-2}" -d '\n' -I{} bash -c 'one "$1"' _ {}
default
collapse method.kl_coef=0 method.gamma=1 method.replay=on_policy method.replay_ratio=1
VARIANTS
$python experiments/quickstart/table.py "$runs" experiments/quickstart
