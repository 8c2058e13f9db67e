#!/usr/bin/env bash
# A ModelArts job on this machine: a model folder alone, and a directory that plays the bucket of the object storage.
# Usage: [BUCKET=DIR] bash scripts/modelarts_local.sh FOLDER [PROGRAM] [--KEY VALUE ...]
#   FOLDER         the code directory: a model folder, for example tinydarknet
#   PROGRAM        its boot file (default: train.py)
#   --KEY VALUE    goes to the program, as a hyper-parameter of the job does, for example --device_target CPU
#   BUCKET         the directory (default: modelarts_local/FOLDER in the working directory). Its folder data holds the
#                  data set, which export.py does not need, its folder output gets the results. In options it is called
#                  obs://bucket: --checkpoint_url obs://bucket/output/best.ckpt
# The folder is copied to a temporary directory, run from there, and gone at the end, as on the service. The exit status
# is that of the program. In place of the package moxing there is a stand-in, which copies files.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
wrong_usage() {
    printf 'error: %s\n' "$1" >&2
    usage >&2
    exit 2
}

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
case ${1:-} in
    -h | --help) usage; exit 0 ;;
    "" | -*) wrong_usage "the first argument is a model folder" ;;
esac
FOLDER=${1%/} PROGRAM=train.py
shift
if [[ $FOLDER == */* || ! -f $REPOSITORY/$FOLDER/train.py ]]; then
    FOLDERS=("$REPOSITORY"/*/train.py)
    FOLDERS=("${FOLDERS[@]%/train.py}")
    wrong_usage "unknown folder '$FOLDER', there are: ${FOLDERS[*]##*/}"
fi
case ${1:-} in
    "" | -*) ;;
    *) PROGRAM=$1; shift ;;
esac
[[ $PROGRAM == *.py && -f $REPOSITORY/$FOLDER/$PROGRAM ]] || wrong_usage "$FOLDER has no program '$PROGRAM'"

BUCKET=${BUCKET:-modelarts_local/$FOLDER}
case $BUCKET in /*) ;; *) BUCKET=$PWD/$BUCKET ;; esac
ADDRESSES=(--data_url=obs://bucket/data --train_url=obs://bucket/output)
if [ ! -d "$BUCKET/data" ]; then
    if [ "$PROGRAM" != export.py ]; then
        echo "error: $BUCKET/data is missing: put the data set there, or a link to it, or name another BUCKET" >&2
        exit 1
    fi
    ADDRESSES=(--train_url=obs://bucket/output)
fi
mkdir -p -- "$BUCKET"
prepare_environment

JOB=$(mktemp -d "${TMPDIR:-/tmp}/modelarts_local.XXXXXXXX")
trap 'rm -rf -- "$JOB"' EXIT
mkdir -- "$JOB/code" "$JOB/storage"
ln -s -- "$BUCKET" "$JOB/storage/bucket"
cp -R -- "$REPOSITORY/$FOLDER" "$JOB/code/"
cd -- "$JOB/code"

printf '\n== job: %s of %s\n' "$PROGRAM" "$FOLDER"
set -m # its own process group: a signal comes to this script, which hands it on and waits for the upload
PYTHONPATH=$REPOSITORY/tests/fake_moxing FAKE_MOXING_STORAGE=$JOB/storage \
    "$VENV_PYTHON" "$FOLDER/$PROGRAM" --enable_modelarts True "${ADDRESSES[@]}" \
    --data_path="$JOB/data" --output_path="$JOB/output" --load_path="$JOB/checkpoint" "$@" &
PROCESS=$!
trap 'kill -INT "$PROCESS"' INT
trap 'kill -TERM "$PROCESS"' TERM
while :; do
    STATUS=0
    wait "$PROCESS" || STATUS=$?
    kill -0 "$PROCESS" 2>/dev/null || break # else a signal has interrupted the waiting
done

printf '\n== bucket: %s\n' "$BUCKET"
if [ -d "$BUCKET/data" ]; then printf '%12s files  data\n' "$(find -L "$BUCKET/data" -type f | wc -l)"; fi
find "$BUCKET" -path "$BUCKET/data" -prune -o -type f -printf '%12s bytes  %P\n' | sort -k 3
printf '\n== the job has ended, status %s\n' "$STATUS"
exit "$STATUS"
