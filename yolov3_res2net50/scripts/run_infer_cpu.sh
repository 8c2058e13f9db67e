#!/usr/bin/env bash
# Run a MINDIR or ONNX model on the pictures of a data set with infer.py on the CPU, and compute the average precision,
# all in the current directory: infer_result, infer.log, acc.log, and in accuracy what eval.py writes. The exit status
# is that of the first step that fails.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_infer_cpu.sh [MODEL_PATH] [DATA_PATH] [ANNO_PATH] [OPTIONS]
MODEL_PATH is a model of export.py, with its description MODEL_PATH.json beside it; DATA_PATH the folder of the
pictures, for example val2017; ANNO_PATH the annotation file, for example annotations/instances_val2017.json."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"
# shellcheck source-path=SCRIPTDIR source=shared/infer_common.sh
source "$MODEL_DIR/scripts/shared/infer_common.sh"
OPTIONS_HELP="$INFER_OPTIONS_HELP"

parse_arguments "$@"
expect_arguments 3
model="$(file_argument MODEL_PATH "${ARGS[0]}")"
data_dir="$(directory_argument DATA_PATH "${ARGS[1]}")"
annotations="$(file_argument ANNO_PATH "${ARGS[2]}")"

RESULTS+=(accuracy)
run_infer "$model" "$data_dir"
run_postprocess --per_batch_size=1 --result_path="$CALLER_DIR/infer_result/result_Files" --img_path="$data_dir" \
    --annFile="$annotations" --log_path="$CALLER_DIR/accuracy"
