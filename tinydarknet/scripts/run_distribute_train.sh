#!/usr/bin/env bash
# Train on the Ascend devices of a rank table, device i in the folder train_parallel<i> of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_distribute_train.sh [RANK_TABLE_FILE] [OPTIONS]
       bash run_distribute_train.sh [RANK_TABLE_FILE] [cifar10|imagenet] [TRAIN_DATA_DIR] [OPTIONS]
       DEVICE_NUM=N bash run_distribute_train.sh [cifar10|imagenet] [TRAIN_DATA_DIR] [OPTIONS]
The first form trains on the imagenet recipe with the paths of imagenet_config.yaml. Without a rank table msrun starts
DEVICE_NUM processes, all in train_parallel0; so it does with --device_target CPU, where a rank table may be given
instead of DEVICE_NUM. Without data set and folder those of imagenet_config.yaml count there too.
Environment: SERVER_ID (entry of this server in the rank table, default: 0), BIND_CORES (0: do not bind each device's
process to its own share of the cores), LAUNCH_KILL_SECONDS (what the other ranks get to end after one has died,
default: 10); for msrun MASTER_PORT, and for several servers MASTER_ADDR (of the first server), NODE_RANK (0, 1, ...) and
WORKER_NUM (processes of all servers)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

parse_arguments "$@"
target="$(option_value device_target)"
target="${target:-Ascend}"
if [[ "$target" == Ascend && -z "${DEVICE_NUM:-}" ]]; then expect_arguments 1 3; else expect_arguments 0 1 2 3; fi

tables="$((${#ARGS[@]} % 2))" # 1 if a rank table was given
if ((tables)); then rank_table="$(file_argument RANK_TABLE_FILE "${ARGS[0]}")"; fi
JOB=(train.py)
if ((${#ARGS[@]} >= 2)); then
    dataset="$(choice_argument DATASET "${ARGS[tables]}" cifar10 imagenet)"
    train_data_dir="$(directory_argument TRAIN_DATA_DIR "${ARGS[tables + 1]}")"
    JOB+=(--dataset_name "$dataset" --train_data_dir "$train_data_dir")
fi
# One folder for all ranks: a rank that resumes must see the checkpoints of the others.
JOB+=(--ckpt_save_dir "$CALLER_DIR/train_parallel0/checkpoints")

if [[ "$target" == Ascend && "$tables" == 1 ]]; then
    run_rank_table_job train_parallel log "$rank_table"
else
    if ((tables)); then read_rank_table "$rank_table"; fi
    device_num="$(positive_argument DEVICE_NUM "${DEVICE_NUM:-}")"
    run_cluster_job train_parallel0 log "$device_num"
fi
