#!/usr/bin/env bash
# Evaluate a checkpoint on the CPU, in the folder eval of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_eval_cpu.sh [OPTIONS]
       bash run_eval_cpu.sh [VAL_DATA_DIR] [imagenet|cifar10] [CHECKPOINT_PATH] [OPTIONS]
The first form evaluates the imagenet recipe with the paths of imagenet_config.yaml."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 0 3
JOB=(eval.py --device_target CPU)
if ((${#ARGS[@]} == 3)); then
    val_data_dir="$(directory_argument VAL_DATA_DIR "${ARGS[0]}")"
    dataset="$(choice_argument DATASET "${ARGS[1]}" imagenet cifar10)"
    checkpoint_path="$(file_argument CHECKPOINT_PATH "${ARGS[2]}")"
    JOB+=(--dataset_name "$dataset" --val_data_dir "$val_data_dir" --checkpoint_path "$checkpoint_path")
fi

single_process_environment
run_job eval eval.log
