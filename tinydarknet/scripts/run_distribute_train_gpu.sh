#!/usr/bin/env bash
# Train on several GPUs through msrun or mpirun, in the folder distribute_train_gpu of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_distribute_train_gpu.sh [RANK_SIZE] [OPTIONS]
       bash run_distribute_train_gpu.sh [RANK_SIZE] [TRAIN_DATA_DIR] [cifar10|imagenet] [OPTIONS]
RANK_SIZE is the number of GPUs of this server. The first form trains on the imagenet recipe with the paths of
imagenet_config.yaml.
Environment: LAUNCHER (msrun or mpirun, default: msrun where it exists), MASTER_PORT; for several servers MASTER_ADDR
(of the first server), NODE_RANK (0, 1, ...) and WORKER_NUM (GPUs of all servers)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
expect_arguments 1 3
rank_size="$(positive_argument RANK_SIZE "${ARGS[0]}")"
JOB=(train.py --device_target GPU)
if ((${#ARGS[@]} == 3)); then
    train_data_dir="$(directory_argument TRAIN_DATA_DIR "${ARGS[1]}")"
    dataset="$(choice_argument DATASET "${ARGS[2]}" cifar10 imagenet)"
    JOB+=(--dataset_name "$dataset" --train_data_dir "$train_data_dir")
fi
JOB+=(--ckpt_save_dir "$CALLER_DIR/distribute_train_gpu/checkpoints")

run_cluster_job distribute_train_gpu log.txt "$rank_size"
