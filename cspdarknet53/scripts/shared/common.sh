#!/usr/bin/env bash
# Shared file: source utils/launchers/common.sh; copy with: python scripts/sync_model_utils.py --write
# Functions shared by the launchers of this folder, which source this file; it does nothing when run by itself.
#
# A launcher sets USAGE, calls parse_arguments "$@", checks its arguments with the functions *_argument, fills JOB with
# the Python program and its flags, and ends with one of
#   run_job            FOLDER LOG_NAME            one process
#   run_cluster_job    FOLDER LOG_NAME NUMBER     NUMBER processes, started by msrun or mpirun
#   run_rank_table_job PREFIX LOG_NAME FILE       one process for each device of an Ascend rank table
# FOLDER is created in the caller's directory; the program runs in the model's folder and gets --run_dir.

# A launcher resolves links to itself before it sources this file, and calls bash when another sh has started it.

set +o posix # sh may be bash; this leaves its POSIX mode
# shellcheck disable=SC2034  # some of the variables are for the launchers
CALLER_DIR="$PWD"
MODEL_DIR="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
STAMP="$(date +%Y%m%d-%H%M%S)"
ARGS=()           # positional arguments
OPTIONS=()        # --key value arguments, passed on to the program as they are
WAIT=0            # 1 with --wait
JOB=()            # the program and its flags
RESULTS=()        # names that only launchers give to what they leave beside the run folders
JOB_PID=""        # the process that this shell has started and follows
LOG_START=0       # bytes that the log held before this run
SUPERVISED=0      # 1 when JOB_PID is a supervisor, which marks a failure in the log by MARK
MARK="launcher: error:"

OPTIONS_HELP='Options:
  --wait         run in the foreground and return the status of the job
  -h, --help     print this text
  --KEY VALUE    any other option goes to the Python program as it is; it wins over the values of the launcher;
                 relative paths in it are taken from the folder of the model
Environment: PYTHON (interpreter, default: python), LAUNCH_CHECK_SECONDS (how long the start is watched, default: 5).'

# No variable that may hold a token or a password belongs in this list.
ENV_LOG_NAMES="DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM SERVER_ID RANK_TABLE_FILE MASTER_ADDR MASTER_PORT NODE_RANK
    WORKER_NUM MS_NODE_TIMEOUT LAUNCHER BIND_CORES LAUNCH_CHECK_SECONDS LAUNCH_KILL_SECONDS PYTHON PYTHONPATH PATH LD_LIBRARY_PATH
    LD_PRELOAD VIRTUAL_ENV CONDA_PREFIX CUDA_HOME CUDA_VISIBLE_DEVICES ASCEND_HOME_PATH ASCEND_OPP_PATH
    ASCEND_RT_VISIBLE_DEVICES HCCL_CONNECT_TIMEOUT HCCL_IF_IP GLOG_v ONEDNN_MAX_CPU_ISA OMP_NUM_THREADS"

# ---- Arguments -------------------------------------------------------------------------------------------------------

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

cannot_write() {
    die "cannot write $1; start the launcher in another directory, in which you may write"
}

usage_error() {
    printf 'error: %s\n%s\n\n%s\n' "$*" "$USAGE" "$OPTIONS_HELP" >&2
    exit 1
}

# parse_arguments ARGUMENT...: fills ARGS, OPTIONS and WAIT. The first option for the program ends the positional ones.
parse_arguments() {
    local argument
    for argument in "$@"; do
        case "$argument" in
            --wait) WAIT=1 ;;
            -h | --help) printf '%s\n\n%s\n' "$USAGE" "$OPTIONS_HELP"; exit 0 ;;
            --*) OPTIONS+=("$argument") ;;
            *) if ((${#OPTIONS[@]} > 0)); then OPTIONS+=("$argument"); else ARGS+=("$argument"); fi ;;
        esac
    done
    LAUNCH_CHECK_SECONDS="$(integer_argument LAUNCH_CHECK_SECONDS "${LAUNCH_CHECK_SECONDS:-5}")"
    LAUNCH_KILL_SECONDS="$(integer_argument LAUNCH_KILL_SECONDS "${LAUNCH_KILL_SECONDS:-10}")"
    find_python
}

# expect_arguments NUMBER...: ends the launcher unless as many positional arguments as one of the numbers were given.
expect_arguments() {
    local number expected="$*"
    for number in "$@"; do
        if ((${#ARGS[@]} == number)); then return; fi
    done
    usage_error "got ${#ARGS[@]} arguments, expected ${expected// / or }"
}

# option_value KEY: the value that the options for the program give to --KEY, empty if none; the last one counts.
option_value() {
    local option key="" value=""
    for option in ${OPTIONS[@]+"${OPTIONS[@]}"}; do
        case "$option" in
            "--$1="*) value="${option#*=}" ;;
            --*) ;;
            *) if [[ "$key" == "--$1" ]]; then value="$option"; fi ;;
        esac
        key="$option"
    done
    printf '%s' "$value"
}

# The functions *_argument NAME VALUE ... print the checked value, made absolute if it is a path, or end the launcher.
# Call them in plain assignments only: elsewhere the shell would go on after an error.

absolute_path() {
    case "$1" in
        "" | /*) printf '%s' "$1" ;;
        "~" | "~/"*) printf '%s' "${HOME-}${1#"~"}" ;; # in quotes, or after the = of an option
        *) printf '%s' "${CALLER_DIR%/}/${1#./}" ;;
    esac
}

directory_argument() {
    local path
    path="$(absolute_path "$2")"
    [[ -d "$path" ]] || die "$1=$path is not a directory"
    printf '%s' "$path"
}

file_argument() {
    local path
    path="$(absolute_path "$2")"
    [[ -f "$path" ]] || die "$1=$path is not a file"
    printf '%s' "$path"
}

integer_argument() {
    [[ "$2" =~ ^[0123456789]{1,9}$ ]] || die "$1=$2 is not an integer of 0 or more"
    printf '%d' "$((10#$2))"
}

positive_argument() {
    if [[ ! "$2" =~ ^[0123456789]{1,9}$ ]] || ((10#$2 == 0)); then die "$1=$2 is not an integer of 1 or more"; fi
    printf '%d' "$((10#$2))"
}

# choice_argument NAME VALUE CHOICE...
choice_argument() {
    local name="$1" value="$2" choice
    shift 2
    for choice in "$@"; do
        if [[ "$value" == "$choice" ]]; then
            printf '%s' "$value"
            return
        fi
    done
    die "$name=$value is not one of: $*"
}

find_python() {
    PYTHON="${PYTHON:-python}"
    if [[ "$PYTHON" == */* ]]; then PYTHON="$(absolute_path "$PYTHON")"; fi
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON was not found; set PYTHON to the interpreter to use"
}

# ---- Run folders -----------------------------------------------------------------------------------------------------

# Arguments: MODEL_DIR, RESULTS, how many paths a run renames, these, the words of its call. Fails if a path is or holds
# what a word names, or lies in a folder that a word names and has not been made by a launcher.
INPUT_GUARD='
import os, sys

OUTPUTS = "ckpt_save_dir save_checkpoint_path ckpt_path run_dir log_path summary_dir output_dir output_path file_name"
model, results, count = sys.argv[1], sys.argv[2].split(), int(sys.argv[3])
key, named = "", []
for word in sys.argv[4 + count :]:
    if word.startswith("-"):
        key, _, word = word.partition("=")
    if key.strip("-").replace("-", "_") not in OUTPUTS.split():
        values = filter(None, [word, *word.split(",")])
        named += [os.path.join(base, os.path.expanduser(value)) for value in values for base in (os.getcwd(), model)]


def passed(path):
    """The folders and links on the way to a path, and the path."""
    here, names = "/", path.split("/")[::-1]
    while names:
        here = os.path.normpath(os.path.join(here, names.pop()))
        yield here
        if os.path.islink(here):
            names += os.path.join(os.path.dirname(here), os.readlink(here)).split("/")[::-1]
            here = "/"


for path in filter(os.path.exists, named):
    real, used = os.path.realpath(path), set(passed(path))
    for entry in os.scandir(real) if os.path.isdir(real) else []:
        used.update(passed(entry.path) if entry.is_symlink() and entry.is_dir() else [])
    for old in sys.argv[4 : 4 + count]:
        parent, name = os.path.split(old)
        for place in (os.path.join(os.path.realpath(parent).replace("//", "/"), name), os.path.realpath(old)):
            own = name in results or any(os.path.exists(f + "/env.log") for f in (place, os.path.dirname(place)))
            if place in used or (place.startswith(real + "/") and not own):
                tip = "start the launcher in another directory"
                sys.exit("error: asked to use %s, but a new run renames %s; %s" % (path, old, tip))
'

# refuse_inputs_in PATH...: ends the launcher before it renames what it was asked to use.
refuse_inputs_in() {
    local path found=()
    for path in "$@"; do
        if [[ -e "$path" ]]; then found+=("$path"); fi
    done
    if ((${#found[@]} == 0)); then return; fi
    "$PYTHON" -c "$INPUT_GUARD" "$MODEL_DIR" "${RESULTS[*]-}" "${#found[@]}" "${found[@]}" \
        ${ARGS[@]+"${ARGS[@]}"} ${JOB[@]+"${JOB[@]}"} ${OPTIONS[@]+"${OPTIONS[@]}"} || exit 1
}

# set_aside PATH...: rename what an earlier run has left there, all of it or nothing.
set_aside() {
    local path name number
    refuse_inputs_in "$@"
    for path in "$@"; do
        if [[ ! -e "$path" ]]; then continue; fi
        # The stamp goes first, so that patterns such as train*/log find the new run only.
        name="old_${STAMP}_${path##*/}" number=1
        while [[ -e "${path%/*}/$name" ]]; do name="old_${STAMP}_$((++number))_${path##*/}"; done
        mv -- "$path" "${path%/*}/$name" || cannot_write "${path%/*}/$name"
        echo "renamed the earlier $path to $name"
    done
}

# make_run_dirs FOLDER...: new and empty, unless this run resumes the earlier one.
make_run_dirs() {
    local folder
    if [[ -z "$(option_value resume)" ]]; then set_aside "$@"; fi
    for folder in "$@"; do
        mkdir -p -- "$folder" || cannot_write "the run folder $folder"
    done
}

# set_aside_numbered PREFIX PATH...: unless this run resumes the earlier one, PATH and every folder PREFIX<i>, of which
# the earlier run may have had more than this one.
set_aside_numbered() {
    local path prefix="$1" found=()
    shift
    if [[ -n "$(option_value resume)" ]]; then return; fi
    for path in "$prefix"[0-9]*; do
        if [[ "${path#"$prefix"}" =~ ^[0-9]+$ ]]; then found+=("$path"); fi
    done
    set_aside ${found[@]+"${found[@]}"} "$@"
}

# write_env_log FOLDER: the listed environment variables only.
write_env_log() {
    local name
    for name in $ENV_LOG_NAMES; do
        if [[ -n "${!name+set}" ]]; then printf '%s=%s\n' "$name" "${!name}"; fi
    done >"$1/env.log" || cannot_write "$1/env.log"
}

# ---- Start and follow a job ------------------------------------------------------------------------------------------

# A variable of a former run with several devices must not turn this one into a part of it.
single_process_environment() {
    export RANK_ID=0 RANK_SIZE=1 DEVICE_NUM=1
    unset RANK_TABLE_FILE
}

# start_group LOG COMMAND...: start in the background, output appended to LOG, PID in $!. Job control gives the command
# a process group of its own, so that Ctrl-C in a terminal reaches it once, through the launcher, and leaves SIGINT
# enabled, which a plain "&" does not. It outlives the terminal because it ignores SIGHUP.
start_group() {
    local log="$1"
    shift
    : >>"$log" || cannot_write "$log" # so that it is there when the start is watched
    set -m
    # Redirected here, not where the function is called: bash would keep the caller's stdout open in the subshell.
    (
        set +m
        trap '' HUP
        "$@"
    ) </dev/null >>"$log" 2>&1 &
    set +m
}

# Where stderr is closed, the shell does not report there that a process was killed; the launchers say so themselves.
pause() { sleep "$1"; } 2>/dev/null

is_running() {
    kill -0 "$1" 2>/dev/null
}

# start_job LOG COMMAND...: COMMAND, or a function of this file, in the folder of the model, with its output in LOG.
start_job() {
    if [[ -f "$1" ]]; then LOG_START="$(wc -c <"$1")"; fi
    RECEIVED=""
    if ((WAIT)); then
        trap 'forward_signal INT' INT
        trap 'forward_signal TERM' TERM HUP
    fi
    cd -- "$MODEL_DIR" || exit
    start_group "$@"
    JOB_PID="$!"
    if [[ -n "$RECEIVED" ]]; then forward_signal "$RECEIVED"; fi
}

forward_signal() {
    RECEIVED="$1"
    if [[ -n "$JOB_PID" ]]; then kill -s "$1" "$JOB_PID" 2>/dev/null || true; fi
}

# wait_for PID: its exit status. A signal that this shell traps ends "wait" early, hence the loop.
wait_for() {
    local status
    while :; do
        RECEIVED=""
        status=0
        wait "$1" 2>/dev/null || status=$?
        if [[ -z "$RECEIVED" ]]; then return "$status"; fi
    done
}

new_log_text() {
    tail -c "+$((LOG_START + 1))" -- "$1"
}

has_failed() {
    if ! is_running "$JOB_PID"; then return 0; fi
    ((SUPERVISED)) && [[ -n "$(new_log_text "$1" | sed -n "/^$MARK/p")" ]]
}

# follow_job LOG: ends the launcher. With --wait: the status of the job. Without: 1 if the job fails within the first
# LAUNCH_CHECK_SECONDS, else 0.
follow_job() {
    local log="$1" status=0 tick
    echo "started, PID $JOB_PID, log $log"
    if ((!WAIT)); then
        for ((tick = 10 * LAUNCH_CHECK_SECONDS; tick > 0; tick--)); do
            if has_failed "$log"; then break; fi
            pause 0.1
        done
        if ((tick == 0)); then exit 0; fi
    fi
    wait_for "$JOB_PID" || status=$?
    if ((status == 0)); then
        echo "the job has finished"
        exit 0
    fi
    {
        echo "error: the job ended with status $status; the last lines of $log:"
        new_log_text "$log" | tail -n "$((SUPERVISED ? 25 : 20))"
    } >&2
    if ((WAIT)); then exit "$status"; fi
    exit 1
}

# run_job FOLDER LOG_NAME
run_job() {
    make_run_dirs "$CALLER_DIR/$1"
    run_job_in "$CALLER_DIR/$1" "$2"
}

# run_job_in RUN_DIR LOG_NAME: in a folder that exists.
run_job_in() {
    write_env_log "$1"
    start_job "$1/$2" exec "$PYTHON" "${JOB[@]}" --run_dir "$1" ${OPTIONS[@]+"${OPTIONS[@]}"}
    follow_job "$1/$2"
}

# ---- One process for each device of a rank table ---------------------------------------------------------------------

# Prints the number of all ranks, then "DEVICE_ID RANK_ID CORES" for each device of this server; CORES is "-" where the
# server has fewer cores than devices.
RANK_TABLE_READER='
import json, os, sys

LARGEST = 16 << 20  # bytes
path, server_id = sys.argv[1], int(sys.argv[2])


def fail(reason):
    sys.exit("error: RANK_TABLE_FILE=%s %s" % (path, reason))


def number(value):
    text = str(value) if isinstance(value, str) or type(value) is int and abs(value) < 10**9 else "x"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("%.40r is not an id" % (value if isinstance(value, (str, float, bool)) else type(value),))
    return int(text)


try:
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError("it has more than %d bytes" % LARGEST)
    servers = json.loads(content)["server_list"]
    servers = [[(number(d["device_id"]), number(d["rank_id"])) for d in server["device"]] for server in servers]
except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    reason = "%s: %.200s" % (type(error).__name__, error)
    fail("is not a rank table (JSON with server_list, device, device_id, rank_id): " + reason)
ranks = sorted(rank for server in servers for _, rank in server)
if server_id >= len(servers):
    fail("has no entry for SERVER_ID=%d: it lists %d servers, counted from 0" % (server_id, len(servers)))
devices = servers[server_id]
if not devices:
    fail("lists no device for SERVER_ID=%d" % server_id)
if ranks != list(range(len(ranks))):
    fail("must list the rank ids 0 to %d, each once; it lists %.200s" % (len(ranks) - 1, ranks))
if len({device for device, _ in devices}) != len(devices):
    fail("lists a device id twice for SERVER_ID=%d" % server_id)
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
share = len(cores) // len(devices)
print(len(ranks))
for index, (device, rank) in enumerate(devices):
    print(device, rank, ",".join(map(str, cores[index * share : (index + 1) * share])) or "-")
'

# read_rank_table FILE: RANK_SIZE of all servers, DEVICE_NUM and DEVICES of this one.
read_rank_table() {
    local table
    SERVER_ID="$(integer_argument SERVER_ID "${SERVER_ID:-0}")"
    table="$("$PYTHON" -c "$RANK_TABLE_READER" "$1" "$SERVER_ID")"
    RANK_SIZE="${table%%$'\n'*}"
    DEVICES="${table#*$'\n'}"
    DEVICE_NUM="$(grep -c '' <<<"$DEVICES")"
}

# run_rank_table_job PREFIX LOG_NAME FILE: device i of this server runs in the folder PREFIX<i>.
run_rank_table_job() {
    local index prefix="$CALLER_DIR/$1"
    read_rank_table "$3"
    export SERVER_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE="$3"
    RESULTS+=("$1_supervisor.log")
    set_aside_numbered "$prefix" "${prefix}_supervisor.log"
    for ((index = 0; index < DEVICE_NUM; index++)); do make_run_dirs "$prefix$index"; done
    SUPERVISED=1
    start_job "${prefix}_supervisor.log" supervise_ranks "$prefix" "$2"
    echo "$DEVICE_NUM of $RANK_SIZE ranks run here, logs $prefix*/$2"
    follow_job "${prefix}_supervisor.log"
}

# supervise_ranks PREFIX LOG_NAME: starts the ranks; when one fails, ends the others and returns its status.
supervise_ranks() {
    local kill_at="" grace="$LAUNCH_KILL_SECONDS"
    RANK_PIDS=() RANK_NAMES=() RANK_LOGS=()
    FIRST_FAILED="" FAILED_STATUS=0 RECEIVED=""
    trap 'signal_ranks INT' INT
    trap 'signal_ranks TERM' TERM
    start_ranks "$@"
    while collect_ranks; do
        if [[ -n "$FIRST_FAILED" && -z "$kill_at" ]]; then
            # Ranks that were asked to stop are writing a checkpoint; other ranks wait for the dead one for ever.
            if [[ -n "$RECEIVED" ]]; then grace="$((6 * grace))"; else signal_ranks TERM; fi
            kill_at="$((SECONDS + grace))"
        fi
        if [[ -n "$kill_at" ]] && ((SECONDS >= kill_at)); then kill_ranks; fi
        pause 0.3
    done
    if [[ -n "$FIRST_FAILED" ]]; then tail -n 20 -- "${RANK_LOGS[FIRST_FAILED]}"; fi
    exit "$FAILED_STATUS"
}

start_ranks() {
    local prefix="$1" log_name="$2" command device rank cores run_dir
    while read -r device rank cores; do
        run_dir="$prefix${#RANK_PIDS[@]}"
        export DEVICE_ID="$device" RANK_ID="$rank"
        write_env_log "$run_dir"
        command=("$PYTHON" "${JOB[@]}" --run_dir "$run_dir" ${OPTIONS[@]+"${OPTIONS[@]}"})
        if binds_cores "$cores"; then command=(taskset -c "$cores" "${command[@]}"); fi
        start_group "$run_dir/$log_name" exec "${command[@]}"
        RANK_PIDS+=("$!")
        RANK_NAMES+=("rank $rank (device $device)")
        RANK_LOGS+=("$run_dir/$log_name")
        echo "launcher: rank $rank (device $device), PID $!, log $run_dir/$log_name"
    done <<<"$DEVICES"
    if [[ -n "$RECEIVED" ]]; then signal_ranks "$RECEIVED"; fi
}

binds_cores() {
    [[ "$1" != "-" && "${BIND_CORES:-1}" != 0 ]] && command -v taskset >/dev/null
}

# collect_ranks: notes the first rank that failed; false when no rank runs any more.
collect_ranks() {
    local index status running=1
    for index in "${!RANK_PIDS[@]}"; do
        if is_running "${RANK_PIDS[index]}"; then
            running=0
        elif [[ -z "$FIRST_FAILED" ]]; then
            status=0
            wait "${RANK_PIDS[index]}" 2>/dev/null || status=$?
            if ((status != 0)); then
                FIRST_FAILED="$index"
                FAILED_STATUS="$status"
                echo "$MARK ${RANK_NAMES[index]} ended with status $status; its log: ${RANK_LOGS[index]}"
            fi
        fi
    done
    return "$running"
}

signal_ranks() {
    local pid
    RECEIVED="$1"
    for pid in ${RANK_PIDS[@]+"${RANK_PIDS[@]}"}; do
        if is_running "$pid"; then kill -s "$1" "$pid" 2>/dev/null || true; fi
    done
}

# The whole process group of each rank: its data workers too.
kill_ranks() {
    local pid
    for pid in "${RANK_PIDS[@]}"; do
        if is_running "$pid"; then kill -s KILL -- "-$pid" 2>/dev/null || true; fi
    done
}

# ---- Several processes through msrun or mpirun -----------------------------------------------------------------------

# run_cluster_job FOLDER LOG_NAME NUMBER: NUMBER processes on this server. A FOLDER that ends in 0 stands for all of its
# numbered siblings.
run_cluster_job() {
    local run_dir="$CALLER_DIR/$1" command
    cluster_command "$run_dir" "$3"
    if [[ "$run_dir" == *0 ]]; then set_aside_numbered "${run_dir%0}"; fi
    make_run_dirs "$run_dir"
    set_aside "$run_dir/msrun_log" "$run_dir/log_output" # of a run that is resumed
    unset DEVICE_ID RANK_ID RANK_TABLE_FILE # each rank gets its own
    export RANK_SIZE="$WORKER_NUM" DEVICE_NUM="$3"
    if [[ "${command[0]}" == "$PYTHON" ]]; then
        export DEVICE_ID=0 RANK_ID=0
    elif [[ "$LAUNCHER" == msrun && "$PYTHON" != python ]]; then
        msrun_python "$run_dir/bin"
    fi
    write_env_log "$run_dir"
    SUPERVISED=1
    start_job "$run_dir/$2" supervise_cluster "$run_dir" "$run_dir/$2" \
        "${command[@]}" "${JOB[@]}" --run_dir "$run_dir" ${OPTIONS[@]+"${OPTIONS[@]}"}
    follow_job "$run_dir/$2"
}

# cluster_command RUN_DIR NUMBER: sets the caller's array "command", the words before the program.
cluster_command() {
    local executable
    WORKER_NUM="$(positive_argument WORKER_NUM "${WORKER_NUM:-$2}")"
    ((WORKER_NUM >= $2)) || die "WORKER_NUM=$WORKER_NUM (all servers) is less than the $2 processes of this server"
    if ((WORKER_NUM == 1)); then
        command=("$PYTHON") # one process needs no communication
        return
    fi
    choose_launcher
    executable="$(find_executable "$LAUNCHER")"
    if [[ "$LAUNCHER" == msrun ]]; then
        msrun_command "$executable" "$1" "$2"
    else
        mpirun_command "$executable" "$1" "$2"
    fi
}

choose_launcher() {
    if [[ -n "${LAUNCHER:-}" ]]; then
        LAUNCHER="$(choice_argument LAUNCHER "$LAUNCHER" msrun mpirun)"
        [[ -n "$(find_executable "$LAUNCHER")" ]] || die "LAUNCHER=$LAUNCHER was not found on PATH"
        if [[ "$LAUNCHER" == mpirun && "$(option_value device_target)" == CPU ]]; then
            die "LAUNCHER=mpirun: on CPU MindSpore joins only processes that msrun has started; leave LAUNCHER out"
        fi
    elif [[ -n "$(find_executable msrun)" ]]; then
        LAUNCHER=msrun
    elif [[ "$(option_value device_target)" == CPU ]]; then
        die "msrun was not found on PATH or beside the interpreter; it comes with MindSpore"
    elif [[ -n "$(find_executable mpirun)" ]]; then
        LAUNCHER=mpirun
    else
        die "neither msrun (comes with MindSpore) nor mpirun (comes with OpenMPI) was found on PATH"
    fi
}

# find_executable NAME: msrun of the interpreter in use comes before the one on PATH; prints nothing if there is none.
find_executable() {
    local beside
    beside="$(command -v "$PYTHON")"
    beside="${beside%/*}/$1"
    if [[ "$1" == msrun && -x "$beside" ]]; then
        printf '%s' "$beside"
    else
        command -v "$1" || true
    fi
}

msrun_command() {
    local address="${MASTER_ADDR:-127.0.0.1}" port="${MASTER_PORT:-8118}"
    command=("$1" --worker_num "$WORKER_NUM" --local_worker_num "$3" --master_addr "$address")
    if ((WORKER_NUM > $3)); then
        NODE_RANK="$(integer_argument NODE_RANK "${NODE_RANK:-}")"
        [[ -n "${MASTER_ADDR:-}" ]] || die "MASTER_ADDR (address of the first server) must be set for several servers"
        (((NODE_RANK + 1) * $3 <= WORKER_NUM)) || die "NODE_RANK=$NODE_RANK is too large for WORKER_NUM=$WORKER_NUM"
        command+=(--node_rank "$NODE_RANK")
        # Seconds after which a server that is silent counts as dead; the default of 30 ends the others after 50.
        export MS_NODE_TIMEOUT="${MS_NODE_TIMEOUT:-20}"
    elif [[ -z "${MASTER_PORT:-}" ]]; then
        port="$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')"
    fi
    MASTER_PORT="$(positive_argument MASTER_PORT "$port")"
    command+=(--master_port "$MASTER_PORT" --log_dir "$2/msrun_log" --join=True --cluster_time_out=600)
}

mpirun_command() {
    ((WORKER_NUM == $3)) || die "several servers need msrun: WORKER_NUM=$WORKER_NUM, but $3 processes here"
    command=("$1")
    if [[ "$(id -u)" == 0 ]]; then command+=(--allow-run-as-root); fi
    # Unless told otherwise mpirun ties each rank, with its data workers, to one core or to a few; and it puts its own
    # folder first on their PATH, where there may be another python.
    command+=(-n "$3" --bind-to none bash -c "$MPI_RANK" "$2/log_output" "$(command -v "$PYTHON")")
}

# A rank of mpirun: its output goes where the ranks of msrun have theirs. The options of mpirun for that differ between
# OpenMPI 4 and 5.
# shellcheck disable=SC2016  # the variables are those of the rank
MPI_RANK='mkdir -p -- "$0" && exec "$@" >"$0/worker_$OMPI_COMM_WORLD_RANK.log" 2>&1'

# msrun_python FOLDER: msrun starts its ranks with "python"; this makes that word mean PYTHON.
msrun_python() {
    mkdir -p -- "$1"
    printf '#!/usr/bin/env bash\nexec %q "$@"\n' "$(command -v "$PYTHON")" >"$1/python"
    chmod +x -- "$1/python"
    export PATH="$1:$PATH"
}

# supervise_cluster RUN_DIR LOG COMMAND...: passes signals on to the ranks, which msrun and mpirun do not, and ends an
# msrun whose ranks are dead: it would wait minutes for its scheduler.
supervise_cluster() {
    local run_dir="$1" log="$2" status=0
    shift 2
    WORKERS="" WORKER_RANKS="" RECEIVED=""
    trap 'signal_workers INT' INT
    trap 'signal_workers TERM' TERM
    start_group "$log" exec "$@"
    JOB_PID="$!"
    while is_running "$JOB_PID"; do
        note_workers
        if [[ -z "$WORKERS" && -e "/proc/$JOB_PID/task/$JOB_PID/children" && -n "$(msrun_failure "$log")" ]]; then
            kill -s KILL -- "-$JOB_PID" 2>/dev/null || true
        fi
        pause 0.3
    done
    wait "$JOB_PID" 2>/dev/null || status=$?
    if ((status != 0)); then report_cluster_failure "$run_dir" "$log" "$status"; fi
    exit 0
}

report_cluster_failure() {
    local run_dir="$1" status="$3" failure rank worker_log
    if [[ "$RECEIVED" == INT ]]; then exit 130; fi
    if [[ "$RECEIVED" == TERM ]]; then exit 143; fi
    failure="$(msrun_failure "$2")"
    if [[ -n "$failure" ]]; then
        status="${failure#* }"
        rank="${WORKER_RANKS#*" ${failure% *}="}"
        if [[ "$rank" == "$WORKER_RANKS" ]]; then rank=""; else rank="${rank%% *}"; fi
        worker_log="$run_dir/msrun_log/worker_$rank.log"
    else
        rank="$(mpirun_failure "$2")"
        worker_log="$run_dir/log_output/worker_$rank.log"
    fi
    if ((status < 0)); then status="$((128 - status))"; fi # ended by a signal
    if [[ -z "$rank" ]]; then
        echo "$MARK a rank ended with status $status; the logs of the ranks are in $run_dir"
        exit "$status"
    fi
    echo "$MARK rank $rank ended with status $status; its log: $worker_log"
    if [[ -f "$worker_log" ]]; then tail -n 20 -- "$worker_log"; fi
    exit "$status"
}

# msrun_failure LOG: "PID STATUS" of the rank that msrun reports as failed, else nothing.
msrun_failure() {
    local pattern='.*Worker process \([0-9]*\) exit with exception\. Error code: \(-*[0-9]*\).*'
    new_log_text "$1" | sed -n "s/$pattern/\1 \2/p" | tail -n 1
}

# mpirun_failure LOG: the number of the rank that mpirun reports as failed, else nothing.
mpirun_failure() {
    local ended='^ *Process name: \[.*,\([0-9]*\)\] *$' killed='.* noticed that process rank \([0-9]*\) .*'
    new_log_text "$1" | sed -n -e "s/$ended/\1/p" -e "s/$killed/\1/p" | tail -n 1
}

# note_workers: the ranks that run now, in WORKERS; the rank of each, in WORKER_RANKS as " PID=RANK".
note_workers() {
    local pid rank
    WORKERS="$(worker_pids "$JOB_PID")"
    for pid in $WORKERS; do
        if [[ "$WORKER_RANKS " == *" $pid="* ]]; then continue; fi
        rank="$(worker_rank "$pid")"
        if [[ -n "$rank" ]]; then WORKER_RANKS+=" $pid=$rank"; fi
    done
}

# worker_rank PID: its rank, nothing if the process is gone or not yet set up.
worker_rank() {
    { tr '\0' '\n' <"/proc/$1/environ" | sed -n 's/^RANK_ID=//p'; } 2>/dev/null || true
}

# worker_pids PID: the ranks below msrun or mpirun, which give each rank, and nothing else, a process group of its own.
worker_pids() {
    local children child stat state group
    children="$(cat "/proc/$1/task/"*/children 2>/dev/null)" || true
    for child in $children; do
        stat="$(cat "/proc/$child/stat" 2>/dev/null)" || continue
        read -r state _ group _ <<<"${stat##*) }"
        if [[ "$state" == Z ]]; then continue; fi # dead already
        if [[ "$group" == "$child" ]]; then echo "$child"; else worker_pids "$child"; fi
    done
}

signal_workers() {
    local pid pids
    RECEIVED="$1"
    pids="$(worker_pids "$JOB_PID")"
    for pid in ${pids:-$JOB_PID}; do
        kill -s "$1" "$pid" 2>/dev/null || true
    done
}
