#!/usr/bin/env bash
# Train on one Ascend device, or with --device_target CPU on the CPU, in the folder train of the current directory.
set -euo pipefail
USAGE="Usage: bash run_standalone_train.sh [DEVICE_ID] [DATA_DIR] (option)[PATH_CHECKPOINT] [OPTIONS]
DATA_DIR holds one folder for each class; with --list_file FILE it holds the images that FILE names. Training
starts from the weights of PATH_CHECKPOINT, if it is given. The link log.txt of the current directory points to the
log of the newest run, train/log.txt."
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

parse_arguments "$@"
expect_arguments 2 3
device_id="$(integer_argument DEVICE_ID "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
inputs=("$data_dir")
JOB=(train.py --is_distributed=0 --data_dir="$data_dir" --ckpt_path="$CALLER_DIR/train/checkpoint")
if ((${#ARGS[@]} == 3)); then
    checkpoint="$(file_argument PATH_CHECKPOINT "${ARGS[2]}")"
    JOB+=(--pretrained="$checkpoint")
    inputs+=("$checkpoint")
fi
# A new run renames the folder train of an earlier one, so it must not hold what this run reads.
for input in "${inputs[@]}"; do
    if [[ "$(realpath -- "$input")/" == "$(realpath -- "$CALLER_DIR")"/train/* ]]; then
        die "$input is in the run folder $CALLER_DIR/train; start the launcher in another directory"
    fi
done

link="$CALLER_DIR/log.txt"
if [[ ! -L "$link" ]]; then set_aside "$link"; fi
ln -sfn -- train/log.txt "$link" || die "cannot create the link $link"

single_process_environment
export DEVICE_ID="$device_id"
run_job train log.txt
