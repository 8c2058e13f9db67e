#!/usr/bin/env bash
# Evaluate a checkpoint on one GPU, or with --device_target CPU on the CPU, in the folder device<DEVICE_ID>_<time>.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: sh eval.sh [--data_path DIR] [--model NAME] [--ckpt FILE] [OPTIONS]
  --data_path DIR  the data, with the folder val
  --model NAME     tinynet_a to tinynet_e, default: tinynet_c
  --ckpt FILE      the checkpoint to evaluate
The environment variables DATA_PATH, MODEL and CKPT may be set instead; an option wins over its variable. Relative paths
in both are taken from the current directory. The run folder device<DEVICE_ID>_<yyyymmdd-HHMMSS> with the log
NAME_eval.log is made in the current directory, or in the model's folder if that is the folder of the launchers.
Environment: DEVICE_ID (the GPU to use, default: 0)."
# shellcheck source-path=SCRIPTDIR source=tinynet_common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tinynet_common.sh"

parse_options "$@"
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"
take_data_path val
take_model
take_checkpoint
if [[ -z "$checkpoint" ]]; then usage_error "no checkpoint: set the environment variable CKPT or give --ckpt FILE"; fi
check_options
choose_base
JOB=(eval.py --data_path="$data_path" --model="$model" --ckpt="$checkpoint")
device_flags

single_process_environment
export DEVICE_ID="$device_id"
# What run_job does, with a folder that no other evaluation has: two may start in the same second.
run_dir="$CALLER_DIR/device${device_id}_$STAMP"
while ! mkdir -- "$run_dir" 2>/dev/null; do
    [[ -e "$run_dir" ]] || cannot_write "the run folder $run_dir"
    pause 1
    run_dir="$CALLER_DIR/device${device_id}_$(date +%Y%m%d-%H%M%S)"
done
run_job_in "$run_dir" "${model}_eval.log"
