#!/bin/sh
# Every study of this folder, `choice` and `networks` where they are named:
#   experiments/run.sh [recipe] [flickr8k] [options] [demo] [precision] [choice] [networks]
#
#   SHARDS    where shards are and are put                  (data/shards)
#   RAW       Flickr8k: folder with dataset_flickr8k.json and images/, when its shards are to be made (data/raw/flickr8k)
#   COCO      COCO's photos and annotations, or some of them: what models of Flickr8k are carried over to (not run without)
#   RUNS      where the run directories are put             (runs)
#   DEMO      overrides for the demo's sweeps               (trainer.devices=2)
#   FLICKR8K  overrides for Flickr8k's sweeps               (parallel=2)
#   SUFFIX    of the settings' names in the rows, where rows of another machine are there: those of two share no table
#
# With a GPU: DEMO=jobs_per_gpu=6 FLICKR8K=jobs_per_gpu=8 SUFFIX=_mygpu (_gpu are rows of ours). Parts may run side by
# side, but for flickr8k and options, of which the second takes up runs of the first.
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
COCO=${COCO:-}
SUFFIX=${SUFFIX:-}
BESIDE=none,infonce_sharp,infonce_soft,cosine,text_rate,words_whole,tokens_whole,half_batch,ema
PYTHON=${ENV_PYTHON:-.venv/bin/python}
failed=

call() { # command, words
  command=$1
  shift
  "$PYTHON" -m threeshnet "$command" "$@"
}

data() { # name, words
  name=$1
  shift
  [ -f "$SHARDS/$name/manifest.json" ] || call data "data=$name" "out=\"$SHARDS\"" "$@"
}

study() { # name, experiment, the name of its setting, overrides
  name=$1 experiment=$2 setting=$3
  runs=$RUNS/$name-$experiment-$setting # jobs of two experiments have the same names
  shift 3
  ended=0
  call sweep "study=$name" "experiment=$experiment" "shards=\"$SHARDS\"" "out=\"$runs\"" "reuse=[\"$RUNS\"]" "$@" ||
    ended=$?
  call collect "study=$name" "out=\"$runs\"" "setting_name=$setting$SUFFIX" || failed="$failed $name"
  [ "$ended" != 75 ] || exit 75
  [ "$ended" = 0 ] || failed="$failed $name"
}

# The overrides are words: $DEMO and $FLICKR8K are meant to be split.
recipe() {
  data flickr8k ${RAW:+"raw=\"$RAW\""}
  views
  study recipe grid_flickr8k flickr8k_yardstick setting=flickr8k_yardstick recipe=official,short,recommended $FLICKR8K
}

flickr8k() {
  data flickr8k ${RAW:+"raw=\"$RAW\""}
  for name in parts lineage activation pooling objective; do
    study "$name" grid_flickr8k flickr8k_proxy setting=flickr8k_proxy $FLICKR8K
  done
  study features hybrid_flickr8k flickr8k_proxy setting=flickr8k_proxy $FLICKR8K
  study robustness grid_flickr8k flickr8k_proxy setting=flickr8k_proxy $FLICKR8K
  [ -z "$COCO" ] || carried_over
}

carried_over() {
  data coco2017 "raw=\"$COCO\"" segmentation=own data.reader.dev_photos=10
  study transfer grid_flickr8k flickr8k_proxy setting=flickr8k_proxy $FLICKR8K
}

options() {
  data flickr8k ${RAW:+"raw=\"$RAW\""}
  # InfoNCE is the objective of all levels here, so that those which change it would be the same run.
  study options grid_flickr8k flickr8k_proxy_infonce setting=flickr8k_proxy objective=infonce "option=$BESIDE" $FLICKR8K
  study options grid_flickr8k flickr8k_proxy setting=flickr8k_proxy $FLICKR8K
  study options grid_flickr8k flickr8k_proxy_six_infonce setting=flickr8k_proxy_six objective=infonce \
    option=none,words_whole $FLICKR8K
}

# Three other views of the photos, for what is trained with them.
views() {
  for number in 1 2 3; do
    [ -f "$SHARDS/flickr8k_view$number/manifest.json" ] ||
      call data data=flickr8k "out=\"$SHARDS\"" ${RAW:+"raw=\"$RAW\""} view=random_crop "views=[$number]" "fields=[grid,seg]"
  done
}

# What is good at the yardstick's length, chosen on photos that are kept apart. Long: it runs when it is asked for.
choice() {
  data flickr8k ${RAW:+"raw=\"$RAW\""}
  views
  study options grid_flickr8k flickr8k_long setting=flickr8k_long \
    option=none,views,infonce_soft,infonce,ema $FLICKR8K
  study options grid_flickr8k flickr8k_long_soft setting=flickr8k_long objective=infonce objective.temperature=0.1 \
    option=none,views $FLICKR8K
}

demo() {
  data demo
  for name in parts lineage objective activation pooling transfer robustness; do study "$name" region_demo demo $DEMO; done
  study parts region_demo demo_maximum pooling=maximum without=nothing,guidance,VSpM $DEMO # GPO's seeds scatter too much
  study features hybrid_demo demo $DEMO
  study first_photos hybrid_demo demo $DEMO # three of its four models are those of features
}

# Training in bfloat16, then encoding in it with the models that were trained in float32.
precision() {
  data flickr8k ${RAW:+"raw=\"$RAW\""}
  study precision grid_flickr8k flickr8k_proxy setting=flickr8k_proxy $FLICKR8K
  data demo
  study precision hybrid_demo demo $DEMO
  for seed in 0 1 2; do
    run="$RUNS/precision-grid_flickr8k-flickr8k_proxy/arithmetic=float32,seed=$seed" out="$RUNS/encoded-$seed"
    [ -f "$run/metrics.json" ] || continue # its job has failed, and was named
    call evaluate "checkpoint=\"$run/checkpoints/last.ckpt\"" "shards=\"$SHARDS/flickr8k\"" split=dev \
      precision=bf16-mixed "out=\"$out\""
    call compare "one=\"$out\"" "other=\"$run\"" "out=experiments/precision/encoding/$seed"
  done
}

# The paper's recipe on the grids of two packaged networks, with the segmentation of lite0, and with persons in it.
networks() {
  shards=$SHARDS
  for segmentation in own ssd_lite0; do
    setting=flickr8k_proxy_lite0_lite2
    [ "$segmentation" = own ] || setting=${setting}_$segmentation
    SHARDS=$shards-${setting#flickr8k_proxy_}
    data flickr8k ${RAW:+"raw=\"$RAW\""} extractor@grid=lite0_lite2 "segmentation=$segmentation" "fields=[grid,seg]"
    study options grid_flickr8k "$setting" setting=flickr8k_proxy option=none $FLICKR8K
  done
  SHARDS=$shards
}

for part in ${*:-recipe flickr8k options demo precision}; do "$part"; done
call report
[ -z "$failed" ] || { echo "not finished:$failed" >&2; exit 1; }
