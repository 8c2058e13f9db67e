#!/usr/bin/env bash
# Evaluate a checkpoint on one GPU, or with --device_target CPU on the CPU, in the folder eval of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_eval_gpu.sh [DATASET_PATH] [CHECKPOINT_PATH] [OPTIONS]
DATASET_PATH holds the data set in COCO's layout: the folders annotations and val2017. CHECKPOINT_PATH is a checkpoint
of the whole network.
Environment: DEVICE_ID (the GPU to use, default: 0)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 2
data_dir="$(directory_argument DATASET_PATH "${ARGS[0]}")"
checkpoint="$(file_argument CHECKPOINT_PATH "${ARGS[1]}")"
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"
JOB=(eval.py --device_target=GPU --is_distributed=0 --testing_shape=416)
JOB+=(--data_dir="$data_dir" --pretrained="$checkpoint")

single_process_environment
export DEVICE_ID="$device_id"
run_job eval log.txt
