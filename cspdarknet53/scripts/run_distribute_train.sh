#!/usr/bin/env bash
# Train on the Ascend devices of a rank table, device i in the folder train_parallel<i> of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_distribute_train.sh [RANK_TABLE_FILE] [DATA_DIR] (option)[PATH_CHECKPOINT] [OPTIONS]
       DEVICE_NUM=N bash run_distribute_train.sh [DATA_DIR] (option)[PATH_CHECKPOINT] [OPTIONS]
DATA_DIR holds one folder for each class; with --list_file FILE it holds the images that FILE names. Training
starts from the weights of PATH_CHECKPOINT, if it is given. Without a rank table msrun starts DEVICE_NUM processes, all
in train_parallel0; so it does with --device_target CPU, where a rank table may be given instead of DEVICE_NUM.
Environment: SERVER_ID (entry of this server in the rank table, default: 0), BIND_CORES (0: do not bind each device's
process to its own share of the cores), LAUNCH_KILL_SECONDS (what the other ranks get to end after one has died,
default: 10); for msrun MASTER_PORT, and for several servers MASTER_ADDR (of the first server), NODE_RANK (0, 1, ...) and
WORKER_NUM (processes of all servers); the defaults HCCL_CONNECT_TIMEOUT=600, DEPLOY_MODE=0 and GE_USE_STATIC_MEMORY=1 are set where unset."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

# has_rank_table ARGUMENT...: is the first one a rank table? Where it does not exist, the second one tells.
has_rank_table() {
    if (($# == 2)); then [[ -f "$1" || (! -d "$1" && -d "$2") ]]; else (($# == 3)); fi
}

parse_arguments "$@"
target="$(option_value device_target)"
target="${target:-Ascend}"
if [[ "$target" == Ascend && -z "${DEVICE_NUM:-}" ]]; then
    tables=1
    expect_arguments 2 3
else
    expect_arguments 1 2 3
    if has_rank_table "${ARGS[@]}"; then tables=1; else tables=0; fi
fi

if ((tables)); then rank_table="$(file_argument RANK_TABLE_FILE "${ARGS[0]}")"; fi
data_dir="$(directory_argument DATA_DIR "${ARGS[tables]}")"
# One folder for all ranks: a rank that resumes must see the checkpoints of the others.
JOB=(train.py --is_distributed=1 --data_dir="$data_dir" --ckpt_path="$CALLER_DIR/train_parallel0/checkpoint")
if ((${#ARGS[@]} == tables + 2)); then
    checkpoint="$(file_argument PATH_CHECKPOINT "${ARGS[tables + 1]}")"
    JOB+=(--pretrained="$checkpoint")
fi

export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-600}"
export DEPLOY_MODE="${DEPLOY_MODE:-0}" GE_USE_STATIC_MEMORY="${GE_USE_STATIC_MEMORY:-1}"
ENV_LOG_NAMES+=" DEPLOY_MODE GE_USE_STATIC_MEMORY"
if [[ "$target" == Ascend && "$tables" == 1 ]]; then
    run_rank_table_job train_parallel log.txt "$rank_table"
else
    if ((tables)); then read_rank_table "$rank_table"; fi
    device_num="$(positive_argument DEVICE_NUM "${DEVICE_NUM:-}")"
    run_cluster_job train_parallel0 log.txt "$device_num"
fi
