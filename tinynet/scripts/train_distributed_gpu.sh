#!/usr/bin/env bash
# Train on several GPUs through msrun or mpirun, in the folder device_parallel. With --device_target CPU msrun starts as
# many processes on the CPU.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: sh train_distributed_gpu.sh -n N [--data_path DIR] [--model NAME] [--ckpt FILE] [--epochs N] [OPTIONS]
  -n N             number of GPUs of this server
  --data_path DIR  the data, with the folders train and val (val is not needed with --eval_interval 0)
  --model NAME     tinynet_a to tinynet_e, default: tinynet_c
  --ckpt FILE      start from these weights
  --epochs N       length of the training, default: that of the recipe
The environment variables DATA_PATH, MODEL, CKPT and EPOCHS may be set instead; an option wins over its variable.
Relative paths in both are taken from the current directory. The run folder device_parallel with the log NAME.log and
the checkpoints is made in the current directory, or in the model's folder if that is the folder of the launchers.
Environment: LAUNCHER (msrun or mpirun, default: msrun where it exists), MASTER_PORT; for several servers MASTER_ADDR (of
the first server), NODE_RANK (0, 1, ...) and WORKER_NUM (GPUs of all servers)."
# shellcheck source-path=SCRIPTDIR source=tinynet_common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tinynet_common.sh"

parse_options "$@"
take_option -n
number="$TAKEN"
if [[ -n "$number" ]]; then number="$(positive_argument -n "$number")"; fi
prepare_training device_parallel
if [[ -z "$number" ]]; then usage_error "the number of GPUs is missing: -n N"; fi
JOB+=(--distributed)

export SLOG_PRINT_TO_STDOUT=0
ENV_LOG_NAMES+=" SLOG_PRINT_TO_STDOUT"
run_cluster_job device_parallel "$model.log" "$number"
