#!/usr/bin/env bash
# Run a MINDIR or ONNX model on the pictures of a data set with infer.py on the CPU, and compute the accuracy, all in
# the current directory: infer_result, infer.log, acc.log, and the labels, imagenet_label.json. The exit status is that
# of the first step that fails.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_infer_cpu.sh [MODEL_PATH] [DATA_PATH] [OPTIONS]
MODEL_PATH is a model of export.py, with its description MODEL_PATH.json beside it; DATA_PATH holds one folder of
pictures for each class."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"
# shellcheck source-path=SCRIPTDIR source=shared/infer_common.sh
source "$MODEL_DIR/scripts/shared/infer_common.sh"
OPTIONS_HELP="$INFER_OPTIONS_HELP"

parse_arguments "$@"
expect_arguments 2
model="$(file_argument MODEL_PATH "${ARGS[0]}")"
data_dir="$(directory_argument DATA_PATH "${ARGS[1]}")"

RESULTS+=(imagenet_label.json)
run_infer "$model" "$data_dir"
# It writes into the current directory, which is the caller's here.
"$PYTHON" "$MODEL_DIR/create_imagenet2012_label.py" --img_path "$data_dir"
run_postprocess --result_path="$CALLER_DIR/infer_result/result_Files" --label_path="$CALLER_DIR/imagenet_label.json"
