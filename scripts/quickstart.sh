#!/usr/bin/env bash
# From a fresh machine to a trained, evaluated and exported model: TinyDarkNet on handwritten digits, on the CPU.
# Usage: bash scripts/quickstart.sh [--output DIR] [--KEY VALUE ...]
#   --output DIR   folder of the results (default: quickstart_result in the repository); results of an earlier run
#                  are kept, renamed with a time stamp
#   --KEY VALUE    any other option goes to train.py, for example --epoch_size 3; it wins over the values below
# Steps: environment, data set, train.py, eval.py, export.py (MINDIR and ONNX), infer.py with both, contact sheets.
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

OUTPUT="" TRAIN_OPTIONS=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --output=*) OUTPUT=${1#*=}; shift ;;
        --output)
            [ $# -ge 2 ] || { echo "error: --output needs a folder" >&2; usage >&2; exit 2; }
            OUTPUT=$2; shift 2 ;;
        --?*=*) TRAIN_OPTIONS+=("$1"); shift ;;
        --?*)
            [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; usage >&2; exit 2; }
            TRAIN_OPTIONS+=("$1" "$2"); shift 2 ;;
        *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
done

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
OUTPUT=${OUTPUT:-$REPOSITORY/quickstart_result}
case $OUTPUT in /*) ;; "~"/*) OUTPUT=$HOME${OUTPUT#"~"} ;; *) OUTPUT=$PWD/$OUTPUT ;; esac
MODEL=$REPOSITORY/tinydarknet
BEST=$OUTPUT/checkpoints/0/train_tinydarknet_cifar10_best.ckpt
RECIPE=(--dataset_name cifar10 --num_classes 10 --image_height 64 --image_width 64 --device_target CPU)
STARTED=$SECONDS

CURRENT="start"
step() {
    CURRENT=$1
    printf '\n== %s\n' "$1"
}
at_exit() {
    local status=$?
    [ $status -eq 0 ] || echo "error: quickstart stopped in the step \"$CURRENT\", status $status" >&2
}
trap at_exit EXIT

# Runs a program of the repository and shows the command, ready to be copied.
run() {
    printf '$ %s' "$VENV_PYTHON"
    printf ' %q' "$@"
    printf '\n'
    "$VENV_PYTHON" "$@"
}

step "folder of the results: $OUTPUT"
if [ -e "$OUTPUT/.quickstart" ]; then
    OLD=$OUTPUT.$(date +%Y%m%d-%H%M%S)
    mv -- "$OUTPUT" "$OLD"
    echo "the results of an earlier run are now in $OLD"
elif [ -e "$OUTPUT" ] && [ -n "$(ls -A -- "$OUTPUT")" ]; then
    echo "error: $OUTPUT holds something else than results of this script: choose another --output" >&2
    exit 2
fi
mkdir -p -- "$OUTPUT"
touch -- "$OUTPUT/.quickstart"

step "environment"
prepare_environment

step "data set: 1,437 training and 360 held-out digits in the layout of CIFAR-10"
run "$REPOSITORY/utils/sample_data/digits.py" --layout cifar10 --output "$OUTPUT/digits"
run "$REPOSITORY/utils/sample_data/digits.py" --layout pictures --output "$OUTPUT/pictures" --limit 24

step "training"
TRAINING_STARTED=$SECONDS
run "$MODEL/train.py" "${RECIPE[@]}" --train_data_dir "$OUTPUT/digits" --val_data_dir "$OUTPUT/digits" \
    --batch_size 32 --epoch_size 15 --lr_scheduler cosine_annealing --T_max 15 --lr_init 0.1 --warmup_epochs 2 \
    --weight_decay 5e-4 --flip_prob 0 --color_jitter 0,0,0,0 --cutout_ratio 0 --eval_interval 1 \
    --keep_checkpoint_max 2 --ckpt_save_dir "$OUTPUT/checkpoints" --run_dir "$OUTPUT/train" \
    ${TRAIN_OPTIONS[@]+"${TRAIN_OPTIONS[@]}"}
TRAINING_SECONDS=$((SECONDS - TRAINING_STARTED))

step "evaluation of the best checkpoint on the 360 held-out digits"
run "$MODEL/eval.py" "${RECIPE[@]}" --val_data_dir "$OUTPUT/digits" --checkpoint_path "$BEST" \
    --run_dir "$OUTPUT/eval" 2>&1 | tee "$OUTPUT/eval.txt"
ACCURACY=$(sed -n "s/.*'top_1_accuracy': \([0-9.]*\).*/\1/p" "$OUTPUT/eval.txt" | tail -n 1)
[ -n "$ACCURACY" ] || { echo "error: eval.py printed no accuracy" >&2; exit 1; }

step "export to MINDIR and ONNX"
mkdir -- "$OUTPUT/export"
for format in MINDIR ONNX; do
    run "$MODEL/export.py" "${RECIPE[@]}" --checkpoint_path "$BEST" --file_name "$OUTPUT/export/tinydarknet_digits" \
        --file_format "$format"
done

for format in mindir onnx; do
    step "inference with the $format file on 24 held-out pictures"
    run "$MODEL/infer.py" "${RECIPE[@]}" --model_file "$OUTPUT/export/tinydarknet_digits.$format" \
        --input "$OUTPUT/pictures" --output_dir "$OUTPUT/infer_$format" --top_k 3
    run "$MODEL/postprocess.py" --result_path "$OUTPUT/infer_$format/result_Files" \
        --label_file "$OUTPUT/pictures/label.txt"
    run "$REPOSITORY/scripts/contact_sheet.py" --predictions "$OUTPUT/infer_$format/predictions.json" \
        --labels "$OUTPUT/pictures/label.txt" --output "$OUTPUT/contact_sheet_$format.png"
done

cat <<SUMMARY

== finished in $((SECONDS - STARTED)) s, $TRAINING_SECONDS s of it training
top-1 accuracy on the 360 held-out digits: $ACCURACY
data set         $OUTPUT/digits
log and curves   $OUTPUT/train
best checkpoint  $BEST
exported models  $OUTPUT/export/tinydarknet_digits.mindir
                 $OUTPUT/export/tinydarknet_digits.onnx
predictions      $OUTPUT/infer_mindir/predictions.json
                 $OUTPUT/infer_onnx/predictions.json
contact sheets   $OUTPUT/contact_sheet_mindir.png
                 $OUTPUT/contact_sheet_onnx.png
SUMMARY
