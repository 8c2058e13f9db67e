#!/usr/bin/env bash
# Build the application of ascend310_infer, run a MINDIR model on the pictures of a data set, and compute the accuracy,
# all in the current directory: result_Files, time_Result, infer.log, acc.log, and the labels, imagenet_label.json. The
# log of the build is ascend310_infer/build.log. The exit status is that of the first step that fails.
if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash run_infer_310.sh [MINDIR_PATH] [DATA_PATH] [DEVICE_ID] [OPTIONS]
MINDIR_PATH is a model of export.py, with its description MINDIR_PATH.json beside it; DATA_PATH holds one folder of
pictures for each class. DEVICE_ID may be left out."
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/shared/common.sh"
# shellcheck source-path=SCRIPTDIR source=shared/infer_common.sh
source "$MODEL_DIR/scripts/shared/infer_common.sh"
OPTIONS_HELP="$APP_OPTIONS_HELP"

parse_arguments "$@"
expect_arguments 2 3
parse_app_options
mindir="$(file_argument MINDIR_PATH "${ARGS[0]}")"
data_dir="$(directory_argument DATA_PATH "${ARGS[1]}")"
device_id="$(integer_argument DEVICE_ID "${ARGS[2]:-${device_id:-0}}")"
read_description "$mindir"

RESULTS+=(imagenet_label.json)
run_app "$mindir" "$data_dir" "$device_id"
# It writes into the current directory, which is the caller's here.
"$PYTHON" "$MODEL_DIR/create_imagenet2012_label.py" --img_path "$data_dir"
run_postprocess --result_path="$CALLER_DIR/result_Files" --label_path="$CALLER_DIR/imagenet_label.json"
