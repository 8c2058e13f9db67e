#!/usr/bin/env bash
# Train on one Ascend device, or with --device_target CPU on the CPU, in the folder train of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_standalone_train.sh [DEVICE_ID] [DATA_DIR] (option)[PATH_CHECKPOINT] [OPTIONS]
DATA_DIR holds one folder for each class; with --list_file FILE it holds the images that FILE names. Training
starts from the weights of PATH_CHECKPOINT, if it is given. The link log.txt of the current directory points to the
log of the newest run, train/log.txt."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 2 3
device_id="$(integer_argument DEVICE_ID "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
JOB=(train.py --is_distributed=0 --data_dir="$data_dir" --ckpt_path="$CALLER_DIR/train/checkpoint")
if ((${#ARGS[@]} == 3)); then
    checkpoint="$(file_argument PATH_CHECKPOINT "${ARGS[2]}")"
    JOB+=(--pretrained="$checkpoint")
fi
link="$CALLER_DIR/log.txt"

single_process_environment
export DEVICE_ID="$device_id"
# What run_job does, with the link made between the folder and the start of the job.
if [[ ! -L "$link" ]]; then refuse_inputs_in "$link"; fi # before anything is renamed
make_run_dirs "$CALLER_DIR/train"
if [[ ! -L "$link" ]]; then set_aside "$link"; fi
ln -sfn -- train/log.txt "$link" || die "cannot create the link $link"
run_job_in "$CALLER_DIR/train" log.txt
