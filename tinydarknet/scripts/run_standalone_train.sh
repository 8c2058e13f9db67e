#!/usr/bin/env bash
# Train on one Ascend device, in the folder train_single of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_standalone_train.sh [DEVICE_ID] [OPTIONS]
       bash run_standalone_train.sh [DEVICE_ID] [TRAIN_DATA_DIR] [cifar10|imagenet] [OPTIONS]
The first form trains on the imagenet recipe with the paths of imagenet_config.yaml."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 1 3
device_id="$(integer_argument DEVICE_ID "${ARGS[0]}")"
JOB=(train.py)
if ((${#ARGS[@]} == 3)); then
    train_data_dir="$(directory_argument TRAIN_DATA_DIR "${ARGS[1]}")"
    dataset="$(choice_argument DATASET "${ARGS[2]}" cifar10 imagenet)"
    JOB+=(--dataset_name "$dataset" --train_data_dir "$train_data_dir")
fi
JOB+=(--ckpt_save_dir "$CALLER_DIR/train_single/checkpoints")

single_process_environment
export DEVICE_ID="$device_id"
run_job train_single train.log
