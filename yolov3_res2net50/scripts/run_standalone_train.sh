#!/usr/bin/env bash
# Train on one Ascend device, or with --device_target CPU on the CPU, in the folder train of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_standalone_train.sh [DATASET_PATH] [PRETRAINED_BACKBONE] [OPTIONS]
       bash run_standalone_train.sh [DATASET_PATH] [OPTIONS]
DATASET_PATH holds the data set in COCO's layout: the folders annotations and train2017. PRETRAINED_BACKBONE is a
checkpoint of the backbone, whose stem and layer1 are then frozen; without it the whole network starts from random
weights and nothing is frozen. Checkpoints go to train/outputs.
Environment: DEVICE_ID (the device to use, default: 0)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 1 2
data_dir="$(directory_argument DATASET_PATH "${ARGS[0]}")"
JOB=(train.py --is_distributed=0 --lr=0.001 --loss_scale=1024 --weight_decay=0.016)
JOB+=(--T_max=320 --max_epoch=320 --warmup_epochs=4 --lr_scheduler=cosine_annealing)
JOB+=(--data_dir="$data_dir" --ckpt_path="$CALLER_DIR/train/outputs")
if ((${#ARGS[@]} == 2)); then
    backbone="$(file_argument PRETRAINED_BACKBONE "${ARGS[1]}")"
    JOB+=(--pretrained_backbone="$backbone")
fi
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"

single_process_environment
export DEVICE_ID="$device_id"
run_job train log.txt
