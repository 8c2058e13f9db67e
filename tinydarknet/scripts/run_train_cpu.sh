#!/usr/bin/env bash
# Train on the CPU, in the folder train_cpu of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_train_cpu.sh [TRAIN_DATA_DIR] [cifar10|imagenet] [OPTIONS]"
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 2
train_data_dir="$(directory_argument TRAIN_DATA_DIR "${ARGS[0]}")"
dataset="$(choice_argument DATASET "${ARGS[1]}" cifar10 imagenet)"
JOB=(train.py --device_target CPU --dataset_name "$dataset" --train_data_dir "$train_data_dir")
JOB+=(--ckpt_save_dir "$CALLER_DIR/train_cpu/checkpoints")

single_process_environment
run_job train_cpu train.log
