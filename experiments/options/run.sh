#!/bin/sh
# Each option of docs/options.md alone against the baseline, in the proxy setting: experiments/options/run.sh [option …]
#
#   SHARDS  where the shards of Flickr8k are                 (data/shards)
#   RUNS    where the run directories are put                (runs/options)
#   SEEDS                                                    (0 1 2)
#
# Proxy: the first 2,000 train photos, 3 epochs, the rate x0.1 for the last. What is scored, once and at the end, is the
# dev split (500 photos of train kept apart): the held-out photos are not opened. A job whose directory holds metrics.json
# is left alone, one with a checkpoint goes on from there.
set -eu
cd "$(dirname "$0")/../.."
SHARDS=${SHARDS:-data/shards}
RUNS=${RUNS:-runs/options}
SEEDS=${SEEDS:-0 1 2}
MAKE=${MAKE:-make}
proxy="batches.limit_train_images=2000 trainer.max_epochs=3 milestones=[2] data.dev_split=null data.test_split=dev selection=last highlights=0"
failed=

overrides() {
  case $1 in
    baseline) ;;
    same_image) echo objective.mask_same_image=true ;;
    geometry) echo "boxes=[geometry]" ;;
    classes) echo "boxes=[classes]" ;;
    mixed) echo objective=mixed ;;
    infonce) echo objective=infonce ;;
    gradual) echo objective=gradual ;;
    text_mean) echo pooling@text_pooling=mean_generalized ;;
    text_residual) echo text.encoder.residual=true ;;
    text_rate) echo optimization.pretrained_factor=0.2 ;;
    cosine) echo schedule=cosine ;;
    ema) echo averaging=ema averaging.decay=0.98 ;;
    real_rows) echo real_rows=true ;;
    rows_columns) echo places=rows_columns ;;
    embedded) echo places=embedded ;;
    both_places) echo places=embedded_rows_columns ;;
    *) echo "$1 is no option here" >&2 && return 2 ;;
  esac
}

all="baseline text_mean mixed infonce cosine same_image geometry classes ema gradual text_residual text_rate real_rows rows_columns embedded both_places"
for seed in $SEEDS; do
  for option in ${*:-$all}; do
    out=$RUNS/$option-$seed
    chosen=$(overrides "$option")
    if [ -f "$out/metrics.json" ]; then
      echo "== $option, seed $seed: done before"
      continue
    fi
    resume=0
    [ ! -f "$out/checkpoints/last.ckpt" ] || resume=1
    echo "== $option, seed $seed"
    $MAKE train EXP=grid_flickr8k OUT="$out" SHARDS="$SHARDS" RESUME=$resume ARGS="$proxy $chosen seed=$seed" ||
      failed="$failed $option-$seed"
  done
done
[ -z "$failed" ] || { echo "failed:$failed" >&2 && exit 1; }
