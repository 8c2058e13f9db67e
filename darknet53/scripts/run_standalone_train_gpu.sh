#!/usr/bin/env bash
# Train on one GPU, or with --device_target CPU on the CPU, in the folder train of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_standalone_train_gpu.sh darknet53 imagenet2012 [DATASET_PATH] (PRETRAINED_CKPT_PATH) [OPTIONS]
DATASET_PATH holds the folder train, unless --train_data_dir names another one. Training starts from the weights of
PRETRAINED_CKPT_PATH, if it is given.
Environment: DEVICE_ID (the GPU to use, default: 0)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 3 4
net="$(choice_argument NET "${ARGS[0]}" darknet53)"
dataset="$(choice_argument DATASET "${ARGS[1]}" imagenet2012)"
dataset_path="$(directory_argument DATASET_PATH "${ARGS[2]}")"
if [[ -z "$(option_value train_data_dir)" && ! -d "$dataset_path/train" ]]; then
    die "DATASET_PATH=$dataset_path has no folder train"
fi
JOB=(train.py --device_target GPU --run_distributed false --net "$net" --dataset "$dataset")
JOB+=(--dataset_path "$dataset_path")
JOB+=(--save_checkpoint_path "$CALLER_DIR/train" --summary_dir "$CALLER_DIR/train/summary_dir")
if ((${#ARGS[@]} == 4)); then
    checkpoint_path="$(file_argument PRETRAINED_CKPT_PATH "${ARGS[3]}")"
    JOB+=(--pre_trained "$checkpoint_path")
fi
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"

single_process_environment
export DEVICE_ID="$device_id"
run_job train log
