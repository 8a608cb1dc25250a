#!/bin/sh
# Every study of this folder, the longest first: experiments/run.sh [flickr8k] [demo]
#
#   SHARDS    where shards are and are put                  (data/shards)
#   RAW       Flickr8k: folder with dataset_flickr8k.json and images/, when its shards are to be made (data/raw/flickr8k)
#   RUNS      where the run directories are put             (runs)
#   DEMO      overrides for the demo's sweeps               (trainer.devices=2)
#   FLICKR8K  overrides for Flickr8k's sweeps               (parallel=2)
#
# Start it again wherever it was cut: jobs go on from their last checkpoint, finished ones are not run again, nor is a run
# that another study has finished. Rows are collected after every study, so that what is finished is never lost.
# Exit code 75: interrupted, start it again. 1: jobs failed, which were named; all others were run.
set -eu
cd "$(dirname "$0")/.."
SHARDS=${SHARDS:-data/shards}
RUNS=${RUNS:-runs}
DEMO=${DEMO:-trainer.devices=2}
FLICKR8K=${FLICKR8K:-parallel=2}
PYTHON=${ENV_PYTHON:-.venv/bin/python}
failed=

call() { # command, words
  command=$1
  shift
  "$PYTHON" -m "threeshnet.commands.$command" "$@"
}

data() { # name, words
  name=$1
  shift
  [ -f "$SHARDS/$name/manifest.json" ] || call shards "data=$name" "out=\"$SHARDS\"" "$@"
}

study() { # name, experiment, overrides
  name=$1 experiment=$2
  runs=$RUNS/$name-$experiment # jobs of two experiments have the same names
  shift 2
  ended=0
  call sweep "study=$name" "experiment=$experiment" "shards=\"$SHARDS\"" "out=\"$runs\"" "reuse=[\"$RUNS\"]" "$@" ||
    ended=$?
  call collect "study=$name" "out=\"$runs\"" || failed="$failed $name"
  [ "$ended" != 75 ] || exit 75
  [ "$ended" = 0 ] || failed="$failed $name"
}

# The overrides are words: $DEMO and $FLICKR8K are meant to be split.
flickr8k() {
  data flickr8k ${RAW:+"raw=\"$RAW\""}
  study recipe grid_flickr8k setting=flickr8k_yardstick $FLICKR8K
  study options grid_flickr8k setting=flickr8k_proxy $FLICKR8K
  for name in parts activation objective pooling; do study "$name" grid_flickr8k setting=flickr8k_proxy $FLICKR8K; done
  study features hybrid_flickr8k setting=flickr8k_proxy $FLICKR8K
}

demo() {
  data demo
  for name in parts objective activation pooling transfer; do study "$name" region_demo $DEMO; done
  study features hybrid_demo $DEMO
}

for part in ${*:-flickr8k demo}; do "$part"; done
call report
[ -z "$failed" ] || { echo "not finished:$failed" >&2; exit 1; }
