"""Launchers of a model that does nothing, which use all of utils/launchers, and a bench that holds them."""

from __future__ import annotations

import shutil
from pathlib import Path

from launcher_bench import Bench

SOURCE = Path(__file__).resolve().parents[1] / "utils/launchers"
TOYS = {
    "one.sh [DATA_DIR] [FILE] [COLOUR]": """
expect_arguments 0 3
JOB=(train.py)
if ((${#ARGS[@]} == 3)); then
    data_dir="$(directory_argument DATA_DIR "${ARGS[0]}")"
    file="$(file_argument FILE "${ARGS[1]}")"
    colour="$(choice_argument COLOUR "${ARGS[2]}" red blue)"
    JOB+=(--data_dir "$data_dir" --file="$file" --colour "$colour")
fi
JOB+=(--ckpt_save_dir "$CALLER_DIR/run/checkpoints")
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"

single_process_environment
export DEVICE_ID="$device_id"
run_job run log
""",
    "ranks.sh [RANK_TABLE_FILE]": """
expect_arguments 1
table="$(file_argument RANK_TABLE_FILE "${ARGS[0]}")"
JOB=(train.py)
run_rank_table_job ranks log "$table"
""",
    "group.sh [NUMBER]": """
expect_arguments 1
number="$(positive_argument NUMBER "${ARGS[0]}")"
JOB=(train.py --shared)
run_cluster_job group log "$number"
""",
    "numbered.sh [NUMBER]": """
expect_arguments 1
number="$(positive_argument NUMBER "${ARGS[0]}")"
JOB=(train.py --shared)
run_cluster_job group0 log "$number"
""",
    "infer.sh [MODEL] [DATA_DIR]": """
source "$MODEL_DIR/scripts/shared/infer_common.sh"
expect_arguments 2
model="$(file_argument MODEL "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
RESULTS+=(accuracy)
run_infer "$model" "$data_dir"
run_postprocess --log_path="$CALLER_DIR/accuracy"
""",
    "app.sh [MODEL] [DATA_DIR]": """
source "$MODEL_DIR/scripts/shared/infer_common.sh"
expect_arguments 2
parse_app_options
model="$(file_argument MODEL "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
read_description "$model"
run_app "$model" "$data_dir" 3
run_postprocess --result_path="$CALLER_DIR/result_Files"
""",
}
TOY = """#!/usr/bin/env bash
if [ -z "${{BASH_VERSION:-}}" ]; then exec bash "$0" "$@"; fi # called with another sh
set -euo pipefail
USAGE="Usage: bash {call} [OPTIONS]"
source "$(dirname -- "$(readlink -f -- "${{BASH_SOURCE[0]}}")")/shared/common.sh"
parse_arguments "$@"
{body}"""


def toy_bench(root: Path) -> Bench:
    """A bench with the toys, and data for them in the caller's folder."""
    scripts = root / "toys"
    scripts.mkdir()
    shutil.copytree(SOURCE, scripts / "shared")
    for call, body in TOYS.items():
        (scripts / call.split()[0]).write_text(TOY.format(call=call, body=body.lstrip()))
    bench = Bench(root, scripts)
    bench.make("some data/", "best weights.ckpt")
    return bench
