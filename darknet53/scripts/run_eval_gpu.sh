#!/usr/bin/env bash
# Evaluate a checkpoint on one GPU, or with --device_target CPU on the CPU, in the folder eval of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_eval_gpu.sh [DATASET_PATH] [CHECKPOINT_PATH] [OPTIONS]
DATASET_PATH holds the folder val, unless --val_data_dir names another one."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 2
dataset_path="$(directory_argument DATASET_PATH "${ARGS[0]}")"
if [[ -z "$(option_value val_data_dir)" && ! -d "$dataset_path/val" ]]; then
    die "DATASET_PATH=$dataset_path has no folder val"
fi
checkpoint_path="$(file_argument CHECKPOINT_PATH "${ARGS[1]}")"
JOB=(eval.py --device_target GPU --run_distributed false)
JOB+=(--dataset_path "$dataset_path" --checkpoint_path "$checkpoint_path")

single_process_environment
run_job eval log
