#!/usr/bin/env bash
# Search on this machine, with all of its cores or GPUs: one trial a GPU where there is one, else one a core.
#
#   runners/local.sh flo gan --trials 100
#   DATA=/data/xlsa17 runners/local.sh cub gan --time 8h
#
# The same command again goes on where it stopped; Ctrl-C ends it cleanly.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 DATASET BACKBONE [options of d3tune search]" >&2
  exit 2
fi
dataset=$1 backbone=$2
shift 2
exec "${D3TUNE:-d3tune}" search --dataset "$dataset" --backbone "$backbone" ${DATA:+--data-dir "$DATA"} "$@"
