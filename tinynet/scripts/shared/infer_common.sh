#!/usr/bin/env bash
# Shared file: source utils/launchers/infer_common.sh; copy with: python scripts/sync_model_utils.py --write
# Functions shared by the inference launchers of this folder, which source this file after common.sh. Unlike the other
# launchers these work in the foreground and put their files into the current directory itself.

APP_DIR="$MODEL_DIR/ascend310_infer"
RESULTS=(infer.log acc.log) # in the current directory; a launcher adds what else it makes there

# shellcheck disable=SC2034  # the two texts are for the launchers
APP_OPTIONS_HELP='Options:
  --device_target NAME   Ascend or CPU, default: Ascend; CPU needs MindSpore Lite, but no Ascend device
  -h, --help             print this text
Environment: LITE_HOME (the unpacked MindSpore Lite package, required), BUILD_OPTIONS (further options for CMake,
separated by blanks, for example -DOpenCV_DIR=DIR), device_id (the device, where the argument is left out, default: 0),
PYTHON (interpreter, default: python).'

# shellcheck disable=SC2034
INFER_OPTIONS_HELP='Options:
  -h, --help     print this text
  --KEY VALUE    any other option goes to infer.py as it is; relative paths in it are taken from the folder of the model
Environment: PYTHON (interpreter, default: python).'

# parse_app_options: sets DEVICE_TARGET from OPTIONS, which may hold nothing else.
parse_app_options() {
    local option expects_value=0
    for option in ${OPTIONS[@]+"${OPTIONS[@]}"}; do
        if ((expects_value)); then
            expects_value=0
        elif [[ "$option" == --device_target ]]; then
            expects_value=1
        elif [[ "$option" != --device_target=* ]]; then
            usage_error "unknown argument $option"
        fi
    done
    if ((expects_value)); then usage_error "--device_target needs a value"; fi
    DEVICE_TARGET="$(option_value device_target)"
    DEVICE_TARGET="$(choice_argument device_target "${DEVICE_TARGET:-Ascend}" Ascend CPU)"
}

# Prints the description that export.py writes beside a model as flags of the application, one a line.
DESCRIPTION_READER='
import json, sys

path = sys.argv[1]
try:
    with open(path, "rb") as file:
        spec = json.loads(file.read(64 << 20))["input"]
    methods = ["nearest", "bilinear", "bicubic"]
    if "keep_ratio" in spec:
        resize = "letterbox" if spec["keep_ratio"] else "both_sides"
        methods.remove("bicubic")  # that of OpenCV is meant, the application has that of Pillow
    else:
        resize = spec["resize"]
    if spec["interpolation"] not in methods:
        sys.exit(
            "error: %s: interpolation=%s: the application resizes pictures for this model with %s only"
            % (path, spec["interpolation"], " or ".join(methods))
        )
    flags = {
        "height": "%d" % spec["height"],
        "width": "%d" % spec["width"],
        "resize": resize,
        "crop_ratio": repr(float(spec.get("crop_ratio", 1))),
        "interpolation": spec["interpolation"],
        "mean": ",".join(repr(float(value)) for value in spec["mean"]),
        "std": ",".join(repr(float(value)) for value in spec["std"]),
    }
except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
    sys.exit(
        "error: %s, the description that export.py writes beside a model, cannot be read (%s: %.200s); keep the two files "
        "together, and give a converted model a copy under its name" % (path, type(error).__name__, error)
    )
print("\n".join("--%s=%s" % flag for flag in flags.items()))
'

# read_description MODEL: sets INPUT_FLAGS.
read_description() {
    local flags
    flags="$("$PYTHON" -c "$DESCRIPTION_READER" "$1.json")"
    mapfile -t INPUT_FLAGS <<<"$flags"
}

# input_value NAME: the value of one of INPUT_FLAGS.
input_value() {
    local flag
    for flag in "${INPUT_FLAGS[@]}"; do
        if [[ "$flag" == "--$1="* ]]; then printf '%s' "${flag#*=}"; fi
    done
}

# run_step LOG WHAT COMMAND...: in the foreground, its output in LOG. A failure ends the launcher with its status.
run_step() {
    local log="$1" what="$2" status=0
    shift 2
    : >"$log" || cannot_write "$log"
    echo "$what, log $log"
    "$@" </dev/null >"$log" 2>&1 || status=$?
    if ((status == 0)); then return; fi
    {
        echo "error: $what ended with status $status; the last lines of $log:"
        tail -n 20 -- "$log"
    } >&2
    exit "$status"
}

# in_model_dir COMMAND...
in_model_dir() {
    (cd -- "$MODEL_DIR" && exec "$@")
}

# set_results_aside: before the first step, so that after a failure nothing here looks like a result of this run.
set_results_aside() {
    local name paths=()
    for name in "${RESULTS[@]}"; do paths+=("$CALLER_DIR/$name"); done
    set_aside "${paths[@]}"
}

# run_app MODEL DATA DEVICE_ID: builds the application and runs it; result_Files and time_Result in the current
# directory.
run_app() {
    local build_options libraries
    read -r -a build_options <<<"${BUILD_OPTIONS:-}"
    RESULTS+=(result_Files time_Result)
    set_results_aside
    run_step "$APP_DIR/build.log" "building the application" \
        bash "$APP_DIR/build.sh" ${build_options[@]+"${build_options[@]}"}
    # As the guide of MindSpore Lite sets it. The application finds libmindspore-lite.so itself, not what that needs.
    libraries="$LITE_HOME/runtime/lib:$LITE_HOME/runtime/third_party/dnnl:$LITE_HOME/tools/converter/lib"
    run_step "$CALLER_DIR/infer.log" "inference on $DEVICE_TARGET" \
        env LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
        "$APP_DIR/out/main" --mindir_path="$1" --dataset_path="$2" --device_id="$3" --device_target="$DEVICE_TARGET" \
        --output_dir="$CALLER_DIR" "${INPUT_FLAGS[@]}"
}

# run_infer MODEL DATA: infer.py on the CPU, in the folder infer_result of the current directory.
run_infer() {
    set_results_aside
    run_step "$CALLER_DIR/infer.log" "inference on CPU" \
        in_model_dir "$PYTHON" infer.py --device_target=CPU --model_file="$1" --input="$2" \
        --output_dir="$CALLER_DIR/infer_result" ${OPTIONS[@]+"${OPTIONS[@]}"}
}

# run_postprocess FLAG...: the accuracy, in acc.log and on the screen.
run_postprocess() {
    run_step "$CALLER_DIR/acc.log" "accuracy" in_model_dir "$PYTHON" postprocess.py "$@"
    cat -- "$CALLER_DIR/acc.log"
}
