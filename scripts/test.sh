#!/usr/bin/env bash
# Every check of the repository: lint, the shared files, and pytest once per folder. Makes the environment first.
# Usage: bash scripts/test.sh [PYTEST_ARGS]        for example  bash scripts/test.sh -k checkpoint
# Two folders are tested at a time (JOBS=1: one after the other); the output of each appears when it has ended.
# Everything is run even when something fails; the exit status is 1 when anything did. The last line is the total, in
# which lint and the shared files count as one test each.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment
cd -- "$REPOSITORY"
RESULTS=$(mktemp -d)
trap 'rm -rf -- "$RESULTS"' EXIT
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
run_pytest() { # NAME FOLDER PYTEST_ARGS...
    local name=$1 folder=$2 report=$RESULTS/$1.xml status=0
    shift 2
    (cd -- "$folder" && "$VENV_PYTHON" -m pytest tests --junitxml="$report" -q "$@") >"$RESULTS/$name.log" 2>&1 || status=$?
    printf '\n== pytest %s\n' "$name"
    cat -- "$RESULTS/$name.log"
    count "$report" "$status" $# >"$RESULTS/$name.count"
}

check "ruff" "$VENV_PYTHON" -m ruff check .
check "shared files" "$VENV_PYTHON" scripts/sync_model_utils.py --check
names=(repository)
for program in */train.py; do names+=("$(dirname -- "$program")"); done
for name in "${names[@]}"; do
    mapfile -t running < <(jobs -pr)
    if ((${#running[@]} >= ${JOBS:-2})); then wait -n || true; fi
    folder=$name
    if [ "$name" = repository ]; then folder=.; fi
    run_pytest "$name" "$folder" "$@" &
done
wait
for name in "${names[@]}"; do
    counts=$(cat -- "$RESULTS/$name.count" || echo "0 1 0")
    # shellcheck disable=SC2086
    add "pytest $name" $counts
done

printf '\n%s' "$SUMMARY"
if [ "$SKIPPED" -gt 0 ]; then
    echo "$PASSED passed, $FAILED failed, $SKIPPED skipped"
else
    echo "$PASSED passed, $FAILED failed"
fi
[ "$FAILED" -eq 0 ] && [ "$PASSED" -gt 0 ]
