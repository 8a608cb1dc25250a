#!/bin/sh
# Every job of this experiment, one after another: experiments/first_photos/run.sh [demo] [flickr8k]
#
#   RAW     Flickr8k: folder with dataset_flickr8k.json and images/ (not needed when its shards are there)
#   SHARDS  where shards are and are put                     (data/shards)
#   RUNS    where the run directories are put                (runs/first_photos)
#   SEEDS   of the demo                                      (0 1 2)
#
# A job whose directory holds metrics.json is left alone, one with a checkpoint goes on from there: after an
# interruption, start this again. ENV_PYTHON and the like reach make through the environment.
set -eu
cd "$(dirname "$0")/../.."
SHARDS=${SHARDS:-data/shards}
RUNS=${RUNS:-runs/first_photos}
SEEDS=${SEEDS:-0 1 2}
MAKE=${MAKE:-make}
failed=

data() { # name, folder, overrides
  [ -f "$2/$1/manifest.json" ] && return
  if [ "$1" = demo ]; then
    $MAKE data DATA=demo OUT="$2" ARGS="$3"
  else
    $MAKE data DATA="$1" RAW="${RAW:?give the folder of the photos of $1: RAW=<folder>}" OUT="$2" ARGS="$3"
  fi
}

train() { # job, experiment, folder of shards, overrides
  if [ -f "$RUNS/$1/metrics.json" ]; then
    echo "== $1: done before"
    return
  fi
  resume=0
  [ ! -f "$RUNS/$1/checkpoints/last.ckpt" ] || resume=1
  echo "== $1"
  $MAKE train EXP="$2" OUT="$RUNS/$1" SHARDS="$3" RESUME=$resume ARGS="$4" || failed="$failed $1"
}

demo() {
  data demo "$SHARDS" ""
  for seed in $SEEDS; do
    for features in hybrid region grid; do
      train "demo-$features-$seed" "${features}_demo" "$SHARDS" "seed=$seed"
    done
    train "demo-vse-$seed" hybrid_demo "$SHARDS" "fusion=[] parts=[local] seed=$seed"
  done
  # Controls: the segmentation of another photo, and one that was made from the pixels.
  data demo "$SHARDS-shuffled" "segmentation=shuffled"
  data demo "$SHARDS-lite0" "segmentation=own"
  for seed in $SEEDS; do
    train "demo-hybrid-shuffled-$seed" hybrid_demo "$SHARDS-shuffled" "seed=$seed"
    train "demo-hybrid-lite0-$seed" hybrid_demo "$SHARDS-lite0" "seed=$seed"
  done
}

flickr8k() {
  all="setting=flickr8k_yardstick"
  half="$all trainer.max_epochs=3 milestones=[2]"
  data flickr8k "$SHARDS" ""
  train flickr8k-grid-full-0 grid_flickr8k "$SHARDS" "$all seed=0"
  for features in hybrid region; do
    train "flickr8k-$features-half-0" "${features}_flickr8k" "$SHARDS" "$half seed=0"
  done
  for seed in 0 1; do
    train "flickr8k-grid-proxy-$seed" grid_flickr8k "$SHARDS" "$half batches.limit_train_images=2000 seed=$seed"
  done
}

for part in ${*:-demo flickr8k}; do
  case $part in
    demo | flickr8k) $part ;;
    *) echo "$part does not exist; there are: demo, flickr8k" >&2 && exit 2 ;;
  esac
done
echo "== now: python experiments/first_photos/report.py --collect $RUNS"
[ -z "$failed" ] || { echo "failed:$failed" >&2 && exit 1; }
