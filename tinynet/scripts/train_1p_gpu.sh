#!/usr/bin/env bash
# Train on one GPU, or with --device_target CPU on the CPU, in the folder device_<DEVICE_ID>.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: sh train_1p_gpu.sh [--data_path DIR] [--model NAME] [--ckpt FILE] [--epochs N] [OPTIONS]
  --data_path DIR  the data, with the folders train and val (val is not needed with --eval_interval 0)
  --model NAME     tinynet_a to tinynet_e, default: tinynet_c
  --ckpt FILE      start from these weights
  --epochs N       length of the training, default: that of the recipe
The environment variables DATA_PATH, MODEL, CKPT and EPOCHS may be set instead; an option wins over its variable.
Relative paths in both are taken from the current directory. The run folder device_<DEVICE_ID> with the log NAME.log and
the checkpoints is made in the current directory, or in the model's folder if that is the folder of the launchers.
Environment: DEVICE_ID (the GPU to use, default: 0)."
# shellcheck source-path=SCRIPTDIR source=tinynet_common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tinynet_common.sh"

parse_options "$@"
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"
prepare_training "device_$device_id"

single_process_environment
export DEVICE_ID="$device_id"
run_job "device_$device_id" "$model.log"
