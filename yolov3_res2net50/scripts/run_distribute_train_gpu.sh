#!/usr/bin/env bash
# Train on several GPUs through msrun or mpirun, in the folder train_parallel of the current directory. With
# --device_target CPU msrun starts as many processes on the CPU.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_distribute_train_gpu.sh [DATASET_PATH] [PRETRAINED_BACKBONE] [OPTIONS]
       bash run_distribute_train_gpu.sh [DATASET_PATH] [OPTIONS]
DATASET_PATH holds the data set in COCO's layout: the folders annotations and train2017. PRETRAINED_BACKBONE is a
checkpoint of the backbone, whose stem and layer1 are then frozen; without it the whole network starts from random
weights and nothing is frozen. Checkpoints go to train_parallel/outputs.
Environment: DEVICE_NUM (number of GPUs of this server, default: 8; --device_num N wins), LAUNCHER (msrun or mpirun,
default: msrun where it exists), MASTER_PORT; for several servers MASTER_ADDR (of the first server), NODE_RANK (0, 1,
...) and WORKER_NUM (GPUs of all servers)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 1 2
data_dir="$(directory_argument DATASET_PATH "${ARGS[0]}")"
# The recipe of Ascend. Older GPU scripts gave a learning rate of 0.1, which suits only gradients that are divided by
# the loss scale twice, as they were there; with right gradients it diverges.
JOB=(train.py --device_target=GPU --is_distributed=1 --lr=0.001 --loss_scale=1024 --weight_decay=0.016)
JOB+=(--T_max=320 --max_epoch=320 --warmup_epochs=4 --training_shape=416 --lr_scheduler=cosine_annealing)
# One folder for all ranks: a rank that resumes must see the checkpoints of the others.
JOB+=(--data_dir="$data_dir" --ckpt_path="$CALLER_DIR/train_parallel/outputs")
if ((${#ARGS[@]} == 2)); then
    backbone="$(file_argument PRETRAINED_BACKBONE "${ARGS[1]}")"
    JOB+=(--pretrained_backbone="$backbone")
fi
wanted="$(option_value device_num)"
device_num="$(positive_argument DEVICE_NUM "${wanted:-${DEVICE_NUM:-8}}")"

run_cluster_job train_parallel log.txt "$device_num"
