#!/usr/bin/env bash
# Every check of the repository: lint, the shared files, and pytest once per folder. Makes the environment first.
# Usage: bash scripts/test.sh [FOLDER...] [--long] [-- PYTEST_ARGUMENT...]
#   FOLDER   a model folder, or tests for what the folders share; without one: all of them, lint and the shared files
#   --long   the slow proofs too (marked long): each network learns, the quick starts as they are, more processes
# For example  bash scripts/test.sh tinynet   or   bash scripts/test.sh tests -- -k checkpoint
# Two folders are tested at a time (JOBS=1: one after the other), the longest first; the output of each appears when it
# has ended. Everything is run even when something fails; the exit status is 1 when anything did. The last line is the
# total, in which lint and the shared files count as one test each.
set -euo pipefail

FOLDERS=() SELECTION=(-m "not long") PYTEST_ARGUMENTS=()
usage() { sed -n '3,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --long) SELECTION=() ;;
        --) shift; PYTEST_ARGUMENTS=("$@"); break ;;
        *)
            if [ "${1%/}" != tests ] && [ ! -f "$1/train.py" ]; then
                echo "error: '$1' is no folder with tests; --long, and arguments of pytest after --, are accepted" >&2
                usage >&2
                exit 2
            fi
            FOLDERS+=("${1%/}") ;;
    esac
    shift
done

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment
RESULTS=$(mktemp -d)
trap 'rm -rf -- "$RESULTS"' EXIT
export XDG_CACHE_HOME=$RESULTS/cache # what checks of pictures remember
PASSED=0 FAILED=0 SKIPPED=0 SUMMARY=""

add() { # NAME PASSED FAILED SKIPPED
    PASSED=$((PASSED + $2)) FAILED=$((FAILED + $3)) SKIPPED=$((SKIPPED + $4))
    SUMMARY+=$(printf '%-22s %s passed, %s failed, %s skipped' "$@")$'\n'
}

check() { # NAME COMMAND...
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then add "$name" 1 0 0; else add "$name" 0 1 0; fi
}

# Prints "PASSED FAILED SKIPPED" of a JUnit report. Whatever pytest could not report counts as one failure: it died, or
# it found no test although it was not asked for some only.
count() { # REPORT EXIT_STATUS NUMBER_OF_PYTEST_ARGS
    "$VENV_PYTHON" - "$@" <<'PY'
import sys
import xml.etree.ElementTree

report, status, arguments = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    suites = list(xml.etree.ElementTree.parse(report).iter("testsuite"))
except (OSError, xml.etree.ElementTree.ParseError):
    suites = []
total, failed, errors, skipped = (
    sum(int(suite.get(name)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
)
bad = failed + errors
if bad == 0 and status != 0 and not (status == 5 and arguments):
    bad, total = 1, total + 1
print(max(0, total - bad - skipped), bad, skipped)
PY
}

# Each folder holds a package called src, so each gets a process of its own.
run_pytest() { # FOLDER
    local folder=$1 report=$RESULTS/$1.xml status=0
    if [ "$folder" = tests ]; then folder=.; fi
    (cd -- "$folder" && "$VENV_PYTHON" -m pytest tests --junitxml="$report" -q ${SELECTION[@]+"${SELECTION[@]}"} \
        ${PYTEST_ARGUMENTS[@]+"${PYTEST_ARGUMENTS[@]}"}) >"$RESULTS/$1.log" 2>&1 || status=$?
    printf '\n== pytest %s\n' "$1"
    cat -- "$RESULTS/$1.log"
    count "$report" "$status" "${#PYTEST_ARGUMENTS[@]}" >"$RESULTS/$1.count"
}

tests_of() { # FOLDER
    if [ "$1" = tests ]; then echo tests; else echo "$1/tests"; fi
}

# The folders with tests, those with the most of them first.
by_length() { # FOLDER...
    local folder
    for folder in "$@"; do
        echo "$(find "$(tests_of "$folder")" -name '*.py' -exec cat {} + | wc -c) $folder"
    done | sort -rn | cut -d ' ' -f 2
}

if [ ${#FOLDERS[@]} -eq 0 ]; then
    check "ruff" "$VENV_PYTHON" -m ruff check .
    check "shared files" "$VENV_PYTHON" scripts/sync_model_utils.py --check
    FOLDERS=(tests)
    for program in */train.py; do FOLDERS+=("$(dirname -- "$program")"); done
fi
mapfile -t FOLDERS < <(by_length "${FOLDERS[@]}")
for folder in "${FOLDERS[@]}"; do
    mapfile -t running < <(jobs -pr)
    if ((${#running[@]} >= ${JOBS:-2})); then wait -n || true; fi
    run_pytest "$folder" &
done
wait
for folder in "${FOLDERS[@]}"; do
    counts=$(cat -- "$RESULTS/$folder.count" || echo "0 1 0")
    # shellcheck disable=SC2086
    add "pytest $folder" $counts
done

printf '\n%s' "$SUMMARY"
if [ "$SKIPPED" -gt 0 ]; then
    echo "$PASSED passed, $FAILED failed, $SKIPPED skipped"
else
    echo "$PASSED passed, $FAILED failed"
fi
[ "$FAILED" -eq 0 ] && [ "$PASSED" -gt 0 ]
