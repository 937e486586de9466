#!/usr/bin/env bash
# Compare five ways to spend 512 calls of the gold oracle on the embedded world, three seeds each, and write the tables.
# Run it from the repository root; it takes half an hour on two idle CPU cores. Start it again after an interruption:
# finished runs are kept and unfinished ones continue.
set -euo pipefail
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE  # networks this small do not gain from threads
export python=${PYTHON:-.venv/bin/python} runs=${RUNS:-outputs/bbo}
# Four rounds of 128 calls to learn from; the fifth, before the last update, measures the effect of the fourth.
export common="experiment=bbo logger=csv evaluation.every=0 iterations=81 trainer.checkpoint_every=10 method.queries=[128,128,128,128,128] method.budget=640"

one() {
  read -r name seed overrides <<<"$1"
  [ -f "$runs/$name-s$seed/result.json" ] && return
  # shellcheck disable=SC2086
  $python -m rdt.run $common seed="$seed" output_dir="$runs/$name-s$seed" $overrides </dev/null >"$runs/$name-s$seed.log" 2>&1
}
export -f one

mkdir -p "$runs"
while read -r name overrides; do
  for seed in 0 1 2; do echo "$name $seed $overrides"; done
done <<'VARIANTS' | xargs -P "${JOBS:-2}" -d '\n' -I{} bash -c 'one "$1"' _ {}
bootstrap
ucb method.surrogate=ucb
greedy method.beta=0
offline method.queries=[512,128] method.updates_per_round=80
ucb_greedy method.surrogate=ucb method.beta=0
VARIANTS
$python experiments/bbo/table.py "$runs" experiments/bbo
