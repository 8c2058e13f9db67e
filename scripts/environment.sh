#!/usr/bin/env bash
# Makes or reuses the Python environment of this repository. Sourced by quickstart.sh and test.sh; run on its own, it
# only makes the environment.
#
#   PYTHON    the Python to use, 3.9 to 3.12 (default: the first of python3.11 python3.12 python3.10 python3.9 python3)
#   VENV_DIR  where the environment lies (default: .venv in the repository)
#
# After prepare_environment, $VENV_PYTHON is the environment's Python. A stamp in the environment holds the version of
# Python and the hash of the requirement files. It is written last, so that an interrupted installation is made anew.

REPOSITORY=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV_DIR=${VENV_DIR:-$REPOSITORY/.venv}
case $VENV_DIR in /*) ;; *) VENV_DIR=$PWD/$VENV_DIR ;; esac
VENV_PYTHON=$VENV_DIR/bin/python
STAMP=$VENV_DIR/.model_zoo_environment
REQUIREMENTS=("$REPOSITORY/requirements.txt" "$REPOSITORY/requirements-dev.txt")

fail() {
    printf 'error: %s\n' "$1" >&2
    return 1
}

# Succeeds when a Python can make the environment; prints what it is. A name on PATH may be a shim that does not run.
describe_python() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) ||
        { echo "does not run"; return 1; }
    case $version in 3.9.* | 3.10.* | 3.11.* | 3.12.*) ;; *) echo "is Python $version"; return 1 ;; esac
    "$1" -c 'import venv, ensurepip' 2>/dev/null || { echo "is Python $version without its module venv"; return 1; }
    echo "is Python $version"
}

# Prints the Python to make the environment with.
find_python() {
    local candidate description found=""
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.10 python3.9 python3; do
        if description=$(describe_python "$candidate"); then
            echo "$candidate"
            return
        fi
        if [ -n "${PYTHON:-}" ]; then
            fail "PYTHON=$PYTHON $description; Python 3.9 to 3.12 with its module venv is needed"
            return 1
        fi
        command -v "$candidate" >/dev/null && found="$found; $candidate $description"
    done
    fail "Python 3.9 to 3.12 with its module venv is needed${found:-; none is on PATH}. Install one (Debian, Ubuntu: \
apt-get install python3 python3-venv) or name one: PYTHON=/path/to/python3.11 bash $0"
}

# Prints what the stamp of a finished environment holds, for the given Python.
expected_stamp() {
    "$1" - "${REQUIREMENTS[@]}" <<'PY'
import hashlib
import sys

digest = hashlib.sha256()
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        digest.update(file.read())
print("%d.%d.%d" % sys.version_info[:3], digest.hexdigest())
PY
}

is_current() {
    local expected
    expected=$(expected_stamp "${PYTHON:-$VENV_PYTHON}" 2>/dev/null) &&
        [ "$(cat "$STAMP" 2>/dev/null)" = "$expected" ] && "$VENV_PYTHON" -c "" 2>/dev/null
}

install_environment() {
    local python stamp quiet=()
    if [ -e "$VENV_DIR" ] && [ ! -e "$STAMP" ] && [ -n "$(ls -A "$VENV_DIR")" ]; then
        fail "$VENV_DIR was not made by this script: remove it, or choose another place: VENV_DIR=/path bash $0"
        return 1
    fi
    python=$(find_python) && stamp=$(expected_stamp "$python") || return 1
    [ -t 1 ] || quiet=(--quiet)
    echo "Installing Python packages into $VENV_DIR: about 1 GB to download, some minutes"
    rm -rf -- "$VENV_DIR"
    mkdir -- "$VENV_DIR" && echo unfinished >"$STAMP" || return 1
    "$python" -m venv "$VENV_DIR" || { fail "$python -m venv $VENV_DIR failed, see above"; return 1; }
    "$VENV_PYTHON" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} -r "${REQUIREMENTS[1]}" ||
        { fail "pip could not install ${REQUIREMENTS[1]}, see above; the next run starts anew"; return 1; }
    echo "$stamp" >"$STAMP"
}

# Five lines that a report of a problem should begin with.
print_environment() {
    "$VENV_PYTHON" - <<'PY'
import os
import platform
import sys

import mindspore

cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print("Python      ", platform.python_version())
print("MindSpore   ", mindspore.__version__)
print("device      ", mindspore.get_context("device_target"))
print("cores       ", cores)
print("environment ", sys.prefix)
PY
}

# Makes the environment unless it is there. Two scripts at once share one installation, where the machine has flock.
prepare_environment() {
    local parent
    parent=$(dirname -- "$VENV_DIR")
    mkdir -p -- "$parent" || return 1
    if command -v flock >/dev/null; then
        exec 9<"$parent"
        flock 9
    fi
    is_current || install_environment || return 1
    exec 9<&-
    print_environment || fail "MindSpore cannot be imported in $VENV_DIR, see above: remove that folder and try again"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    prepare_environment
fi
