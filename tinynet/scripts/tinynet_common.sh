#!/usr/bin/env bash
# Functions of the three launchers, which source this file; it does nothing when run by itself. The settings come from
# options and environment variables: the launchers have no positional arguments.
# shellcheck source-path=SCRIPTDIR source=shared/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/shared/common.sh"

# shellcheck disable=SC2034  # common.sh reads it
ENV_LOG_NAMES+=" DATA_PATH MODEL CKPT EPOCHS"

# parse_options ARGUMENT...: as parse_arguments, but everything goes to OPTIONS.
parse_options() {
    parse_arguments "$@"
    OPTIONS=(${ARGS[@]+"${ARGS[@]}"} ${OPTIONS[@]+"${OPTIONS[@]}"})
    ARGS=()
}

# take_option WORD: moves "WORD VALUE" and "WORD=VALUE" from OPTIONS to TAKEN; the last one counts. TAKEN is empty if
# there is none. The Python programs read --data-path as --data_path, so both are taken.
take_option() {
    local option value dashed="${1//_/-}" awaited=0 values=() kept=()
    TAKEN=""
    for option in ${OPTIONS[@]+"${OPTIONS[@]}"}; do
        if ((awaited)); then
            values+=("$option")
            awaited=0
            continue
        fi
        case "$option" in
            "$1" | "$dashed") awaited=1 ;;
            -[!-]=*) kept+=("$option") ;; # not a form of a short option
            "$1="* | "$dashed="*) values+=("${option#*=}") ;;
            *) kept+=("$option") ;;
        esac
    done
    if ((awaited)); then values+=(""); fi
    for value in ${values[@]+"${values[@]}"}; do
        case "$value" in "" | --*) usage_error "$1 needs a value" ;; esac
        TAKEN="$value"
    done
    OPTIONS=(${kept[@]+"${kept[@]}"})
}

# take_setting KEY VARIABLE: the option --KEY or else the environment variable, in TAKEN, and which of the two in SOURCE.
take_setting() {
    SOURCE="--$1"
    take_option "--$1"
    if [[ -z "$TAKEN" ]]; then
        SOURCE="$2"
        TAKEN="${!2:-}"
    fi
}

# passed_on KEY: the value of an option that stays in OPTIONS, empty if none.
passed_on() {
    local value
    value="$(option_value "$1")"
    printf '%s' "${value:-$(option_value "${1//_/-}")}"
}

# take_data_path FOLDER...: data_path, which holds the folders train and val as far as they are named here.
take_data_path() {
    local name
    take_setting data_path DATA_PATH
    if [[ -z "$TAKEN" ]]; then
        usage_error "no data: set the environment variable DATA_PATH or give --data_path DIR, the folder of train and val"
    fi
    data_path="$(directory_argument "$SOURCE" "$TAKEN")"
    for name in "$@"; do
        if [[ -n "$(passed_on "${name}_data_dir")" ]]; then continue; fi
        [[ -d "$data_path/$name" ]] || die "$SOURCE=$data_path has no folder $name"
    done
}

take_model() {
    take_setting model MODEL
    model="$(choice_argument "$SOURCE" "${TAKEN:-tinynet_c}" tinynet_a tinynet_b tinynet_c tinynet_d tinynet_e)"
}

# take_checkpoint: its path in checkpoint, empty if none is given.
take_checkpoint() {
    checkpoint=""
    take_setting ckpt CKPT
    if [[ -z "$TAKEN" ]]; then return; fi
    checkpoint="$(file_argument "$SOURCE" "$TAKEN")"
}

# check_options: what is left is for the Python program.
check_options() {
    local option
    if ((${#OPTIONS[@]} > 0)) && [[ "${OPTIONS[0]}" != -* ]]; then usage_error "unexpected argument ${OPTIONS[0]}"; fi
    for option in ${OPTIONS[@]+"${OPTIONS[@]}"}; do
        if [[ "$option" == -n* ]]; then usage_error "unexpected argument $option"; fi
    done
}

# choose_base: run folders are made in the model's folder when the caller stands in the folder of the launchers. Call it
# after all user paths are absolute.
choose_base() {
    if [[ "$CALLER_DIR" -ef "$MODEL_DIR/scripts" ]]; then CALLER_DIR="$MODEL_DIR"; fi
}

# device_flags: the documented ones, unless the caller names the device.
device_flags() {
    if [[ -z "$(passed_on device_target)" ]]; then JOB+=(--GPU --dataset_sink); fi
}

# prepare_training FOLDER: everything up to the start of a training in FOLDER. Sets JOB and model.
prepare_training() {
    local epochs=""
    if [[ "$(passed_on eval_interval)" == 0 ]]; then take_data_path train; else take_data_path train val; fi
    take_model
    take_checkpoint
    take_setting epochs EPOCHS
    if [[ -n "$TAKEN" ]]; then epochs="$(positive_argument "$SOURCE" "$TAKEN")"; fi
    check_options
    choose_base
    # One folder for all ranks: a rank that resumes must see the checkpoints of the others.
    JOB=(train.py --data_path="$data_path" --model="$model" --ckpt_save_dir="$CALLER_DIR/$1")
    device_flags
    if [[ -n "$checkpoint" ]]; then JOB+=(--ckpt="$checkpoint"); fi
    if [[ -n "$epochs" ]]; then JOB+=(--epochs="$epochs"); fi
}
