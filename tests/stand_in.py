"""Stand-in for python, msrun, mpirun, taskset and id in the tests of the launchers: it records how it was called.

Usage: stand_in.py NAME ARGUMENT...  The record is a JSON file in the folder STAND_IN_DIR. What it does then is told by
    STAND_IN_TEXT     lines to print
    STAND_IN_SECONDS  how long to run
    STAND_IN_STATUS   exit status (only of the rank STAND_IN_RANK, if that is set; the other ranks go on)
    STAND_IN_SIGNALS  "exit": note SIGINT and SIGTERM and leave with 128 + number; "ignore": note and go on
    STAND_IN_RANKS    msrun starts its ranks, watches them, and waits for a scheduler like the real one; mpirun starts its
                      ranks with the variables of OpenMPI
    STAND_IN_USER     what "id -u" prints
"""

import json
import os
import signal
import subprocess
import sys
import time


def record(name, arguments):
    path = os.path.join(os.environ["STAND_IN_DIR"], f"{name}-{os.getpid()}.json")
    entry = {"pid": os.getpid(), "argv": arguments, "cwd": os.getcwd(), "env": dict(os.environ)}
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(entry, file)
    os.rename(path + ".new", path)


def note_signals():
    def note(number, _):
        with open(os.path.join(os.environ["STAND_IN_DIR"], f"signal-{os.getpid()}"), "a", encoding="utf-8") as file:
            file.write(f"{signal.Signals(number).name}\n")
        if os.environ["STAND_IN_SIGNALS"] == "exit":
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, note)
    # As Python itself does at its start: an inherited "ignore" stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, note)


def behave():
    if "STAND_IN_TEXT" in os.environ:
        print(os.environ["STAND_IN_TEXT"], flush=True)
        print("text on stderr", file=sys.stderr, flush=True)
    chosen = os.environ.get("STAND_IN_RANK")
    if chosen is not None and chosen != os.environ.get("RANK_ID"):
        time.sleep(60)
        return 0
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    return int(os.environ.get("STAND_IN_STATUS", "0"))


def run_ranks(arguments):
    """What msrun does: each rank in a session of its own; after a failure kill the rest and wait for the scheduler."""
    number = int(arguments[arguments.index("--local_worker_num") + 1])
    script = next(i for i, argument in enumerate(arguments) if argument.endswith(".py"))
    command = ["python", *arguments[script:]]
    server = int(arguments[arguments.index("--node_rank") + 1]) if "--node_rank" in arguments else 0
    ranks = []
    for device in range(number):
        environment = dict(os.environ, RANK_ID=str(server * number + device), DEVICE_ID=str(device))
        ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
    while True:
        statuses = [rank.poll() for rank in ranks]
        for rank, status in zip(ranks, statuses):
            if status:
                print(f"Worker process {rank.pid} exit with exception. Error code: {status}.", flush=True)
                for other in ranks:
                    other.kill()
                time.sleep(60)
                return 1
        if None not in statuses:
            return 0
        time.sleep(0.05)


def run_mpi_ranks(arguments):
    """What mpirun does: each rank with its number and that of all."""
    at = arguments.index("-n")
    command = arguments[arguments.index("bash") :]
    ranks = []
    for rank in range(int(arguments[at + 1])):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "SIZE": arguments[at + 1]}
        environment = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in variables.items()}
        ranks.append(subprocess.Popen(command, env={**os.environ, **environment}))
    return max(rank.wait() for rank in ranks)


def main():
    name, arguments = sys.argv[1], sys.argv[2:]
    if name == "python" and arguments[0] == "-c":
        os.execv(sys.executable, [sys.executable, *arguments])
    if name == "id":
        print(os.environ["STAND_IN_USER"])
        return 0
    if "STAND_IN_SIGNALS" in os.environ and name == "python":
        note_signals()
    record(name, arguments)
    if name == "taskset":
        os.execvp(arguments[2], arguments[2:])
    if name == "msrun" and "STAND_IN_RANKS" in os.environ:
        return run_ranks(arguments)
    if name == "mpirun" and "STAND_IN_RANKS" in os.environ:
        return run_mpi_ranks(arguments)
    return behave()


if __name__ == "__main__":
    sys.exit(main())
