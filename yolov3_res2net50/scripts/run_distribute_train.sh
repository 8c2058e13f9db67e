#!/usr/bin/env bash
# Train on the Ascend devices of a rank table, device i in the folder train_parallel<i> of the current directory.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_distribute_train.sh [DATASET_PATH] [PRETRAINED_BACKBONE] [RANK_TABLE_FILE] [OPTIONS]
       bash run_distribute_train.sh [DATASET_PATH] [RANK_TABLE_FILE] [OPTIONS]
       DEVICE_NUM=N bash run_distribute_train.sh [DATASET_PATH] (PRETRAINED_BACKBONE) [OPTIONS]
DATASET_PATH holds the data set in COCO's layout: the folders annotations and train2017. PRETRAINED_BACKBONE is a
checkpoint of the backbone, whose stem and layer1 are then frozen; without it the whole network starts from random
weights and nothing is frozen. Without a rank table msrun starts the processes, all in train_parallel0; their number is
DEVICE_NUM or --device_num N. So it does on a CPU (or GPU), where a rank table may give the number too. Where DEVICE_NUM
or --device_num is given, a rank table is a file *.json. Checkpoints go to train_parallel0/outputs.
Environment: SERVER_ID (entry of this server in the rank table, default: 0), BIND_CORES (0, or --bind_cpu False: do
not bind each device's process to its own share of the cores), LAUNCH_KILL_SECONDS (what the other ranks get to end
after one has died, default: 10); for msrun MASTER_PORT, and for several servers MASTER_ADDR (of the first server),
NODE_RANK (0, 1, ...) and WORKER_NUM (processes of all servers)."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"

# choose_binding: the option --bind_cpu wins over BIND_CORES; what is no switch is the program's to refuse.
choose_binding() {
    local value
    value="$(option_value bind_cpu)"
    case "${value,,}" in
        false | 0 | no | off) BIND_CORES=0 ;;
        true | 1 | yes | on) BIND_CORES=1 ;;
    esac
    if [[ " ${OPTIONS[*]-} " == *" --no-bind"[_-]"cpu "* ]]; then BIND_CORES=0; fi
}

# has_rank_table: is the last argument a rank table? With a number of processes a checkpoint may stand there.
has_rank_table() {
    case "${#ARGS[@]}" in
        1) false ;;
        2) ((needs_table)) || [[ "${ARGS[1]}" == *.json ]] ;;
        3) true ;;
    esac
}

parse_arguments "$@"
target="$(option_value device_target)"
target="${target:-Ascend}"
wanted="$(option_value device_num)"
needs_table=0
if [[ "$target" == Ascend && -z "$wanted${DEVICE_NUM:-}" ]]; then needs_table=1; fi
if ((needs_table)); then expect_arguments 2 3; else expect_arguments 1 2 3; fi

data_dir="$(directory_argument DATASET_PATH "${ARGS[0]}")"
JOB=(train.py --is_distributed=1 --lr=0.001 --loss_scale=1024 --weight_decay=0.016)
JOB+=(--T_max=320 --max_epoch=320 --warmup_epochs=4 --lr_scheduler=cosine_annealing)
# One folder for all ranks: a rank that resumes must see the checkpoints of the others.
JOB+=(--data_dir="$data_dir" --ckpt_path="$CALLER_DIR/train_parallel0/outputs")
if has_rank_table; then tables=1; else tables=0; fi
if ((${#ARGS[@]} == tables + 2)); then
    backbone="$(file_argument PRETRAINED_BACKBONE "${ARGS[1]}")"
    JOB+=(--pretrained_backbone="$backbone")
fi
if ((tables)); then
    rank_table="$(file_argument RANK_TABLE_FILE "${ARGS[${#ARGS[@]} - 1]}")"
fi

if [[ -n "$wanted" ]]; then wanted="$(positive_argument DEVICE_NUM "$wanted")"; fi
if ((tables)); then
    read_rank_table "$rank_table"
    if [[ -n "$wanted" && "$wanted" != "$DEVICE_NUM" ]]; then
        die "--device_num $wanted, but $rank_table lists $DEVICE_NUM devices of this server; leave the option out"
    fi
fi
if [[ "$target" == Ascend && "$tables" == 1 ]]; then
    choose_binding
    run_rank_table_job train_parallel log.txt "$rank_table"
else
    device_num="${wanted:-${DEVICE_NUM:-}}"
    [[ -n "$device_num" ]] || die "set DEVICE_NUM to the number of processes, or give a rank table"
    device_num="$(positive_argument DEVICE_NUM "$device_num")"
    run_cluster_job train_parallel0 log.txt "$device_num"
fi
