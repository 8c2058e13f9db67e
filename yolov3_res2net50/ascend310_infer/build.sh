#!/usr/bin/env bash
# Shared file: source utils/cpp_infer/build.sh; copy with: python scripts/sync_model_utils.py --write
# Builds out/main in the folder of this script. LITE_HOME names the unpacked MindSpore Lite package.
# Usage: bash build.sh [CMAKE_OPTIONS]          for example  bash build.sh -DOpenCV_DIR=/opt/opencv/lib/cmake/opencv4
set -euo pipefail

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

FOLDER="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
BUILD="$FOLDER/out"

[[ -n "${LITE_HOME:-}" ]] || fail "LITE_HOME is not set; set it to the unpacked MindSpore Lite package"
[[ -f "$LITE_HOME/runtime/lib/libmindspore-lite.so" ]] ||
    fail "LITE_HOME=$LITE_HOME holds no runtime/lib/libmindspore-lite.so; is it the unpacked MindSpore Lite package?"
command -v cmake >/dev/null || fail "cmake was not found; 3.14 or later is needed"

# CMake refuses the cache of a folder that was copied or moved here.
if [[ -f "$BUILD/CMakeCache.txt" ]] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$FOLDER" "$BUILD/CMakeCache.txt"; then
    rm -rf -- "$BUILD"
fi
# LITE_HOME and IMAGE_SOURCE are given every time, so that none of an earlier build stays in the cache.
cmake -S "$FOLDER" -B "$BUILD" -DLITE_HOME="$(CDPATH='' cd -- "$LITE_HOME" && pwd -P)" -DIMAGE_SOURCE= "$@"
cmake --build "$BUILD" --parallel "$(getconf _NPROCESSORS_ONLN)"
echo "built $BUILD/main"
