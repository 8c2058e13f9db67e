#!/usr/bin/env bash
# Train on several GPUs through msrun or mpirun, in the folder train_parallel of the current directory. With
# --device_target CPU msrun starts as many processes on the CPU.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_distribute_train_gpu.sh darknet53 imagenet2012 [DATASET_PATH] (PRETRAINED_CKPT_PATH) [OPTIONS]
DATASET_PATH holds the folder train, unless --train_data_dir names another one. Training starts from the weights of
PRETRAINED_CKPT_PATH, if it is given.
Environment: DEVICE_NUM (number of GPUs of this server, default: 8), LAUNCHER (msrun or mpirun, default: msrun where it
exists), MASTER_PORT; for several servers MASTER_ADDR (of the first server), NODE_RANK (0, 1, ...) and WORKER_NUM (GPUs
of all servers)."
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
JOB=(train.py --device_target GPU --run_distributed true --net "$net" --dataset "$dataset")
JOB+=(--dataset_path "$dataset_path")
# One folder for all ranks: a rank that resumes must see the checkpoints of the others.
JOB+=(--save_checkpoint_path "$CALLER_DIR/train_parallel" --summary_dir "$CALLER_DIR/train_parallel/summary_dir")
if ((${#ARGS[@]} == 4)); then
    checkpoint_path="$(file_argument PRETRAINED_CKPT_PATH "${ARGS[3]}")"
    JOB+=(--pre_trained "$checkpoint_path")
fi
device_num="$(positive_argument DEVICE_NUM "${DEVICE_NUM:-8}")"

run_cluster_job train_parallel log "$device_num"
