#!/bin/sh
# The study `activation` on the demo under hard conditions: three seeds, two processes a job, killed once and started
# again, one job made to fail: experiments/activation/run.sh [RUNS]
#
#   RUNS    folder of the run directories                (runs/activation)
#   SHARDS  where shards are and are put                 (data/shards)
#   ARGS    overrides for every job, as trainer.max_epochs=1 for a trial of this script
#   KILL    seconds after which the sweep is killed      (600)
#
# Start it again wherever it was cut: what is finished is not run again. The transcript goes to RUNS/transcript.txt.
set -eu
cd "$(dirname "$0")/../.."
RUNS=${1:-runs/activation}
KILL=${KILL:-600}
SHARDS=${SHARDS:-data/shards}
PYTHON=${ENV_PYTHON:-.venv/bin/python}
mkdir -p "$RUNS"

sweep() { # overrides: those of the study's jobs. The shell becomes the sweep, so that a kill meets the sweep itself
  exec "$PYTHON" -m threeshnet sweep study=activation experiment=region_demo trainer.devices=2 \
    "shards=\"$SHARDS\"" "$@" ${ARGS:-}
}

say() { printf '\n$ %s\n' "$*"; }

{
  if [ ! -f "$RUNS/killed" ]; then
    say "make sweep STUDY=activation EXP=region_demo ARGS=trainer.devices=2  (killed by SIGKILL after $KILL s)"
    sweep "out=\"$RUNS\"" & pid=$!
    (sleep "$KILL"; kill -KILL "$pid" 2>/dev/null) & killer=$!
    wait "$pid" && ended=0 || ended=$?
    kill "$killer" 2>/dev/null || true
    touch "$RUNS/killed"
    echo "exit code $ended"
  fi
  say "make sweep STUDY=activation EXP=region_demo ARGS=trainer.devices=2  (again)"
  (sweep "out=\"$RUNS\"") && ended=0 || ended=$?
  echo "exit code $ended"
  # One of two jobs fails: a rate at which the loss is no number after a step. The other one is known and is not run.
  say "make sweep STUDY=activation EXP=region_demo OUT=$RUNS-failing ARGS=\"trainer.devices=2 activation=sigmoid seed=0" \
    "optimization.learning_rate=5e-4,1e30\""
  (sweep "out=\"$RUNS-failing\"" "reuse=[\"$RUNS\"]" activation=sigmoid seed=0 optimization.learning_rate=5e-4,1e30) \
    && ended=0 || ended=$?
  echo "exit code $ended"
} 2>&1 | tee -a "$RUNS/transcript.txt"
"$PYTHON" -m threeshnet collect study=activation "out=\"$RUNS\""
"$PYTHON" -m threeshnet report study=activation
