#!/usr/bin/env bash
# Evaluate a checkpoint on one Ascend device, or with --device_target CPU on the CPU, in the folder eval<DEVICE_ID> of
# the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_eval.sh [DEVICE_ID] [DATA_DIR] [PATH_CHECKPOINT] [OPTIONS]
DATA_DIR holds one folder for each class; with --list_file FILE it holds the images that FILE names. The log
is eval.log; the link log.txt beside it points to it."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 3
device_id="$(integer_argument DEVICE_ID "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
checkpoint="$(file_argument PATH_CHECKPOINT "${ARGS[2]}")"
run_dir="$CALLER_DIR/eval$device_id"
JOB=(eval.py --is_distributed=0 --per_batch_size=1 --data_dir="$data_dir" --pretrained="$checkpoint")

single_process_environment
export DEVICE_ID="$device_id"
# What run_job does, with the link made between the folder and the start of the job.
make_run_dirs "$run_dir"
if [[ ! -L "$run_dir/log.txt" ]]; then set_aside "$run_dir/log.txt"; fi
ln -sfn -- eval.log "$run_dir/log.txt" || die "cannot create the link $run_dir/log.txt"
run_job_in "$run_dir" eval.log
