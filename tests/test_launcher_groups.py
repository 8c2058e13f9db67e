"""Several processes through the shared functions of the launchers: rank tables, msrun, mpirun, and their supervision."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from launcher_bench import AT_WORK, STALE, is_alive, option, toy_bench, values, wait_until

import pytest

CORES = sorted(os.sched_getaffinity(0))
CPU = ["--device_target", "CPU"]
TWO = [(0, 0), (1, 1)]


@pytest.fixture
def bench(tmp_path):
    yield from toy_bench(tmp_path)


# ---- Rank table ------------------------------------------------------------------------------------------------------


def test_rank_table_starts_one_process_for_each_device(bench):
    table = bench.rank_table([(4, 1), (5, 0)])
    result = bench.run("ranks.sh", table, "--epoch_size", "2", STAND_IN_TEXT="text", **STALE)
    assert (result.returncode, result.stderr) == (0, "")
    for job, rank, folder, device in zip(bench.records(), "01", ["ranks1", "ranks0"], "54"):
        run_dir = bench.caller / folder
        assert job["argv"] == ["train.py", "--run_dir", str(run_dir), "--epoch_size", "2"]
        names = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM SERVER_ID RANK_TABLE_FILE"
        assert values(job, names) == [device, rank, "2", "2", "0", f"{bench.caller}/{table}"]
        assert (run_dir / "log").read_text() == "text\ntext on stderr\n"
        assert f"DEVICE_ID={device}\nRANK_ID={rank}\n" in (run_dir / "env.log").read_text()
    assert len(bench.records()) == 2 and f"2 of 2 ranks run here, logs {bench.caller}/ranks*/log\n" in result.stdout


def table_text(*devices: tuple[str, str]) -> str:
    entries = ", ".join(f'{{"device_id": "{device}", "rank_id": "{rank}"}}' for device, rank in devices)
    return f'{{"server_list": [{{"device": [{entries}]}}]}}'


@pytest.mark.parametrize(
    "text, message",
    [
        ("not json", "is not a rank table"),
        (table_text(("x", "0")), "is not a rank table"),
        ('{"server_list": []}', "has no entry for SERVER_ID=0"),
        (table_text(), "lists no device"),
        (table_text(("0", "0"), ("1", "0")), "must list the rank ids 0 to 1, each once; it lists [0, 0]"),
        (table_text(("0", "0"), ("0", "1")), "lists a device id twice"),
    ],
)
def test_invalid_rank_table(bench, text, message):
    (bench.caller / "rank table.json").write_text(text)
    assert f"error: RANK_TABLE_FILE={{caller}}/rank table.json {message}" in bench.refuse("ranks.sh", "rank table.json")


@pytest.mark.parametrize("server", ["1", "-1", "x"])
def test_server_that_is_not_in_the_rank_table(bench, server):
    assert f"SERVER_ID={server}" in bench.refuse("ranks.sh", bench.rank_table([(0, 0)]), SERVER_ID=server)


def test_each_device_is_bound_to_its_share_of_the_cores(bench):
    share = len(CORES) // 2
    assert bench.run("ranks.sh", bench.rank_table(TWO), "--wait").returncode == 0
    bound = [(entry["argv"][:2], entry["argv"][2:4]) for entry in bench.records("taskset")]
    slices = [",".join(map(str, CORES[i * share : (i + 1) * share])) for i in range(2)] if share else []
    assert bound == [(["-c", cores], ["python", "train.py"]) for cores in slices]
    assert len(bench.records()) == 2


@pytest.mark.parametrize("reason", ["switched off", "no taskset", "too few cores"])
def test_no_core_binding(bench, reason):
    devices = len(CORES) + 1 if reason == "too few cores" else 1
    if reason == "no taskset":
        (bench.bin / "taskset").unlink()
    extra = {"BIND_CORES": "0"} if reason == "switched off" else {}
    table = bench.rank_table([(number, number) for number in range(devices)])
    assert bench.run("ranks.sh", table, "--wait", **extra).returncode == 0
    assert bench.records("taskset") == [] and len(bench.records()) == devices


@pytest.mark.parametrize("stubborn", [False, True])
def test_one_rank_dying_at_the_start_ends_the_others(bench, stubborn):
    """Also when the others outlive the time in which the launcher watches the start."""
    table = bench.rank_table([(0, 0), (5, 1), (2, 2)])
    script = {"STAND_IN_RANK": "1", "STAND_IN_STATUS": "7", "STAND_IN_TEXT": "last words"}
    if stubborn:
        script.update(STAND_IN_SIGNALS="ignore", LAUNCH_CHECK_SECONDS="3", LAUNCH_KILL_SECONDS="4")
    result = bench.run("ranks.sh", table, **script)
    assert result.returncode == 1
    assert f"rank 1 (device 5) ended with status 7; its log: {bench.caller}/ranks1/log" in result.stderr
    assert "last words" in result.stderr
    assert not any(map(is_alive, bench.records()))


@pytest.mark.parametrize("stubborn", [False, True])
def test_wait_returns_the_status_of_the_rank_that_died(bench, stubborn):
    begin = time.monotonic()
    script = {"STAND_IN_RANK": "1", "STAND_IN_STATUS": "7", "STAND_IN_SECONDS": "1"}
    signals = {"STAND_IN_SIGNALS": "ignore", "LAUNCH_KILL_SECONDS": "1"} if stubborn else {"STAND_IN_SIGNALS": "exit"}
    result = bench.run("ranks.sh", bench.rank_table(TWO), "--wait", **script, **signals)
    assert result.returncode == 7
    assert "rank 1 (device 1) ended with status 7" in result.stderr
    other = bench.records()[0]
    assert bench.signals(other) == ["SIGTERM"] and not is_alive(other)
    assert time.monotonic() - begin < 40


def test_supervisor_outlives_the_launcher(bench):
    script = {"STAND_IN_RANK": "0", "STAND_IN_STATUS": "3", "STAND_IN_SECONDS": "3.5"}
    result = bench.run("ranks.sh", bench.rank_table(TWO), LAUNCH_CHECK_SECONDS="1", **script)
    assert result.returncode == 0
    assert all(map(is_alive, bench.records()))
    wait_until(lambda: not any(map(is_alive, bench.records())))
    log = (bench.caller / "ranks_supervisor.log").read_text()
    assert "launcher: error: rank 0 (device 0) ended with status 3" in log


@pytest.mark.parametrize("name, status", [("INT", 130), ("TERM", 143)])
def test_signal_reaches_every_rank(bench, name, status):
    process = bench.start("ranks.sh", bench.rank_table(TWO), "--wait", **AT_WORK)
    jobs = bench.wait_for_records(2)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=60)
    assert process.returncode == status
    assert [bench.signals(job) for job in jobs] == [[f"SIG{name}"]] * 2


def test_termination_of_the_printed_pid_ends_every_rank(bench):
    result = bench.run("ranks.sh", bench.rank_table(TWO), **AT_WORK)
    os.kill(int(re.search(r"PID (\d+)", result.stdout)[1]), signal.SIGTERM)
    wait_until(lambda: [bench.signals(job) for job in bench.records()] == [["SIGTERM"]] * 2)


def test_folders_of_an_earlier_run_with_more_devices_are_set_aside(bench):
    bench.make("ranks_notes/", "ranks0_mine/")
    bench.run("ranks.sh", bench.rank_table([(0, 0), (1, 1), (2, 2)]), "--wait")
    bench.run("ranks.sh", bench.rank_table([(0, 0)]), "--wait")
    for name in ("ranks0", "ranks1", "ranks2", "ranks_supervisor.log"):
        assert len(bench.old(name)) == 1
    present = sorted(path.name for path in bench.caller.glob("ranks*"))
    assert present == ["ranks0", "ranks0_mine", "ranks_notes", "ranks_supervisor.log"]


def test_resumed_ranks_go_on_in_their_folders(bench):
    table = bench.rank_table(TWO)
    for options in ([], ["--resume", "auto"]):
        assert bench.run("ranks.sh", table, *options, "--wait", STAND_IN_TEXT="text").returncode == 0
    assert not list(bench.caller.glob("old_*"))
    for number in range(2):
        assert (bench.caller / f"ranks{number}/log").read_text().count("text on stderr") == 2


# ---- msrun and mpirun ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script, folder", [("group.sh", "group"), ("numbered.sh", "group0")])
def test_ranks_through_msrun(bench, script, folder):
    run_dir = bench.caller / folder
    bench.make("group1/", "group12/", "group_notes/")
    job = bench.job(script, "4", "--seed=2", by="msrun", **STALE)
    assert job["argv"] == ["train.py", "--shared", "--run_dir", str(run_dir), "--seed=2"]
    assert values(job, "RANK_SIZE DEVICE_NUM DEVICE_ID RANK_ID RANK_TABLE_FILE") == ["4", "4", None, None, None]
    assert (run_dir / "log").read_text() == "text\ntext on stderr\n"
    assert "DEVICE_NUM=4\n" in (run_dir / "env.log").read_text() and bench.records("mpirun") == []
    renamed = [len(bench.old(name)) for name in ("group1", "group12", "group_notes")]
    assert renamed == ([0, 0, 0] if folder == "group" else [1, 1, 0])


@pytest.mark.parametrize("user", ["0", "1000"])
def test_ranks_through_mpirun(bench, user):
    bench.add_stand_in("id")
    (bench.bin / "msrun").unlink()
    words = bench.job("group.sh", "2", by="mpirun", STAND_IN_USER=user, DEVICE_ID="6")["words"]
    assert words[: words.index("-n")] == (["--allow-run-as-root"] if user == "0" else [])


def test_launcher_and_port_may_be_chosen(bench):
    assert bench.job("group.sh", "2", by="mpirun", LAUNCHER="mpirun") and bench.records("msrun") == []
    job = bench.job("group.sh", "2", by="msrun", LAUNCHER="msrun", MASTER_PORT="8200")
    assert option(job["words"], "--master_port") == "8200"


@pytest.mark.parametrize(
    "environment, options, message",
    [
        ({"LAUNCHER": "slurm"}, [], "error: LAUNCHER=slurm is not one of: msrun mpirun"),
        ({"WORKER_NUM": "1"}, [], "error: WORKER_NUM=1 (all servers) is less than the 2 processes"),
        ({"WORKER_NUM": "x"}, [], "error: WORKER_NUM=x is not an integer"),
        ({"WORKER_NUM": "4", "MASTER_ADDR": "10.0.0.1"}, [], "error: NODE_RANK= is not an integer"),
        ({"WORKER_NUM": "4", "NODE_RANK": "1"}, [], "error: MASTER_ADDR (address of the first server) must be set"),
        ({"WORKER_NUM": "4", "NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1"}, [], "error: NODE_RANK=2 is too large"),
        ({"WORKER_NUM": "4", "LAUNCHER": "mpirun"}, [], "error: several servers need msrun"),
        ({"LAUNCHER": "mpirun"}, CPU, "error: LAUNCHER=mpirun: on CPU MindSpore joins only processes that msrun"),
        ({"MASTER_PORT": "x"}, [], "error: MASTER_PORT=x is not an integer"),
    ],
)
def test_invalid_cluster(bench, environment, options, message):
    assert message in bench.refuse("group.sh", "2", *options, **environment)


def test_neither_msrun_nor_mpirun(bench):
    (bench.bin / "msrun").unlink()
    assert "error: LAUNCHER=msrun was not found" in bench.refuse("group.sh", "2", LAUNCHER="msrun")
    assert "error: msrun was not found" in bench.refuse("group.sh", "2", *CPU)
    (bench.bin / "mpirun").unlink()
    assert "error: neither msrun" in bench.refuse("group.sh", "2")


def test_msrun_beside_the_interpreter_and_its_python(bench):
    """msrun starts its ranks as "python"; that must be the interpreter that PYTHON names."""
    bench.make("the env/")
    bench.add_stand_in("python3", bench.caller / "the env", role="python")
    bench.add_stand_in("msrun", bench.caller / "the env")
    for name in ("msrun", "python"):
        (bench.bin / name).unlink()
    result = bench.run("group.sh", "2", "--wait", PYTHON="the env/python3", STAND_IN_RANKS="1")
    assert (result.returncode, result.stderr) == (0, "")
    assert [job["argv"][0] for job in bench.records()] == ["train.py"] * 2


def test_one_process_needs_no_cluster(bench):
    job = bench.job("group.sh", "1", DEVICE_ID="6")
    assert job["argv"] == ["train.py", "--shared", "--run_dir", f"{bench.caller}/group"]
    assert values(job, "DEVICE_ID RANK_ID RANK_SIZE") == ["0", "0", "1"] and bench.records("msrun") == []


@pytest.mark.parametrize("options, status", [(["--wait"], 2), ([], 1)])
def test_rank_of_msrun_dying(bench, options, status):
    """msrun itself would return 1, and only after its scheduler has given up."""
    begin = time.monotonic()
    script = {"STAND_IN_RANKS": "1", "STAND_IN_RANK": "1", "STAND_IN_STATUS": "2", "STAND_IN_SECONDS": "1"}
    result = bench.run("group.sh", "2", *options, **script)
    log = f"{bench.caller}/group/msrun_log/worker_1.log"
    assert f"launcher: error: rank 1 ended with status 2; its log: {log}" in result.stderr
    assert result.returncode == status and time.monotonic() - begin < 40
    assert not any(map(is_alive, bench.records() + bench.records("msrun")))


def test_status_of_a_dead_mpirun(bench):
    result = bench.run("group.sh", "2", "--wait", LAUNCHER="mpirun", STAND_IN_STATUS="7")
    assert result.returncode == 7 and "ended with status 7; the logs of the ranks are in" in result.stderr


@pytest.mark.parametrize("name, status", [("INT", 130), ("TERM", 143)])
def test_signal_reaches_the_ranks_of_msrun(bench, name, status):
    process = bench.start("group.sh", "2", "--wait", STAND_IN_RANKS="1", **AT_WORK)
    jobs = bench.wait_for_records(2)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=60)
    assert process.returncode == status
    assert [f"SIG{name}"] in [bench.signals(job) for job in jobs]
    assert not any(map(is_alive, jobs + bench.records("msrun")))


def test_logs_of_a_resumed_group_are_set_aside(bench):
    for options in ([], ["--resume=auto"]):
        bench.job("group.sh", "2", *options, by="msrun")
        bench.forget()
        bench.make("group/msrun_log/worker_0.log", "group/log_output/a")
    assert not bench.old("group") and (bench.caller / "group/log").read_text().count("text on stderr") == 2
    names = [path.name.split("_", 2)[2] for path in (bench.caller / "group").glob("old_*")]
    assert sorted(names) == ["log_output", "msrun_log"]


# ---- OpenMPI's own mpirun: ranks that are no training, as MindSpore joins its processes on GPU and Ascend only -------

MPI_LAUNCHER = Path(__file__).resolve().parents[1] / "tinydarknet/scripts/run_distribute_train_gpu.sh"
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
# The launcher itself runs small programs with -c.
RANK = """#!{python}
import os, sys, time
if sys.argv[1] == "-c":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
cores = len(os.sched_getaffinity(0))
print("rank", rank, "of", os.environ["OMPI_COMM_WORLD_SIZE"], "on", cores, "cores", os.getpid(), flush=True)
print("DEVICE_ID" in os.environ, sys.argv[1], file=sys.stderr, flush=True)
if rank == int(os.environ.get("BAD_RANK", "-1")):
    time.sleep(0.5)
    if os.environ["BAD_STATUS"] == "9":
        os.kill(os.getpid(), 9)
    sys.exit(int(os.environ["BAD_STATUS"]))
time.sleep(float(os.environ["SECONDS_TO_LIVE"]))
"""

needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside the interpreter or on PATH")


@pytest.fixture
def start_mpirun(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(RANK.format(python=sys.executable))
    (tmp_path / "bin/python").chmod(0o755)

    def run(**environment):
        path = f"{tmp_path / 'bin'}{os.pathsep}{Path(MPIRUN).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "LAUNCHER": "mpirun", "DEVICE_ID": "6", "LAUNCH_KILL_SECONDS": "1"}
        # More ranks than cores are refused by default.
        many = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
        command, variables = ["bash", str(MPI_LAUNCHER), "3", "--wait"], {**os.environ, **own, **many, **environment}
        return subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def logs(folder):
    found = sorted((folder / "distribute_train_gpu/log_output").iterdir())
    assert [path.name for path in found] == ["worker_0.log", "worker_1.log", "worker_2.log"]
    return [path.read_text().split() for path in found]


@needs_mpirun
def test_every_rank_of_mpirun_has_its_number_all_cores_and_a_log(start_mpirun, tmp_path):
    result = start_mpirun(SECONDS_TO_LIVE="0.2")
    assert result.returncode == 0, result.stdout + result.stderr
    for rank, words in enumerate(logs(tmp_path)):
        assert words[:7] == ["rank", str(rank), "of", "3", "on", str(len(CORES)), "cores"]
        assert words[8:] == ["False", "train.py"]


@needs_mpirun
@pytest.mark.parametrize("status, expected", [("7", 7), ("9", 137)])
def test_a_dead_rank_of_mpirun_ends_the_others_and_is_named(start_mpirun, tmp_path, status, expected):
    begin = time.monotonic()
    result = start_mpirun(SECONDS_TO_LIVE="100", BAD_RANK="1", BAD_STATUS=status)
    assert result.returncode == expected
    log = tmp_path / "distribute_train_gpu/log_output/worker_1.log"
    assert f"launcher: error: rank 1 ended with status {expected}; its log: {log}" in result.stderr
    pids = [words[7] for words in logs(tmp_path)]
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() - begin < 60:
        time.sleep(0.05)
    assert time.monotonic() - begin < 60
