#!/usr/bin/env bash
# Run a MINDIR or ONNX model on a folder of pictures with infer.py on the CPU, and compute the accuracy, all in the
# current directory: infer_result, infer.log, acc.log. The exit status is that of the first step that fails.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_infer_cpu.sh [MODEL_PATH] [DATA_PATH] [LABEL_PATH] [OPTIONS]
MODEL_PATH is a model of export.py, with its description MODEL_PATH.json beside it; LABEL_PATH the list of lines
NAME:CLASS_INDEX that create_label_list.py writes."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"
# shellcheck source-path=SCRIPTDIR source=shared/infer_common.sh
source "$MODEL_DIR/scripts/shared/infer_common.sh"
OPTIONS_HELP="$INFER_OPTIONS_HELP"

parse_arguments "$@"
expect_arguments 3
model="$(file_argument MODEL_PATH "${ARGS[0]}")"
data_dir="$(directory_argument DATA_PATH "${ARGS[1]}")"
labels="$(file_argument LABEL_PATH "${ARGS[2]}")"

run_infer "$model" "$data_dir"
run_postprocess --result_path="$CALLER_DIR/infer_result/result_Files" --label_file="$labels"
