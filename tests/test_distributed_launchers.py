"""Every launcher of a training on several devices, on one and on two servers: what msrun, mpirun and each rank get.

The folders' own tests say what the command of one process is; here it is the same for every rank, however it is started.
Stand-ins record the calls. tests/test_distributed.py starts real processes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from launcher_bench import STALE, Bench, values

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA, TABLE, NUMBER = "image net", "rank table.json", "2"
CALLS = {  # with NUMBER processes, which others take from DEVICE_NUM
    "cspdarknet53/scripts/run_distribute_train.sh": [DATA],
    "darknet53/scripts/run_distribute_train_gpu.sh": ["darknet53", "imagenet2012", DATA],
    "tinydarknet/scripts/run_distribute_train.sh": ["cifar10", DATA],
    "tinydarknet/scripts/run_distribute_train_gpu.sh": [NUMBER, DATA, "cifar10"],
    "tinynet/scripts/train_distributed_gpu.sh": ["-n", NUMBER, "--data_path", DATA],
    "yolov3_res2net50/scripts/run_distribute_train.sh": [DATA],
    "yolov3_res2net50/scripts/run_distribute_train_gpu.sh": [DATA],
}
TABLE_CALLS = {
    "cspdarknet53/scripts/run_distribute_train.sh": [TABLE, DATA],
    "tinydarknet/scripts/run_distribute_train.sh": [TABLE, "cifar10", DATA],
    "yolov3_res2net50/scripts/run_distribute_train.sh": [DATA, TABLE],
}
SERVERS = [[(0, 2), (1, 3)], [(4, 1), (7, 0)]]  # (device, rank) of the devices of each
OF_RANKS = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"


class Ranks(Bench):
    """The launchers of a model, with data and a rank table in the caller's folder; msrun and mpirun start ranks."""

    def __init__(self, root: Path, launcher: str):
        super().__init__(root, (ROOT / launcher).parent)
        self.script = Path(launcher).name
        self.make(f"{DATA}/train/", f"{DATA}/val/")
        self.rank_table(*SERVERS)
        self.environment.update(STALE, STAND_IN_RANKS="1")
        del self.environment["DEVICE_NUM"]

    def ranks(self, *arguments: str, **environment: str) -> dict[str, list[dict]]:
        """Run the launcher; what the stand-ins recorded, by their names, that of ranks in the order of these."""
        self.forget()
        result = self.run(self.script, *arguments, "--wait", **environment)
        assert (result.returncode, result.stderr) == (0, "")
        return {name: self.records(name) for name in ("python", "msrun", "mpirun", "taskset")}

    def command(self, call: list[str]) -> list[str]:
        """What the launcher starts for one process."""
        one = ["1" if word == NUMBER else word for word in call]
        (job,) = self.ranks(*one, DEVICE_NUM="1")["python"]
        return job["argv"]


@pytest.mark.parametrize("launcher", CALLS)
def test_ranks_of_msrun_and_mpirun_run_the_command_of_one_process(launcher, tmp_path):
    bench = Ranks(tmp_path, launcher)
    command = bench.command(CALLS[launcher])
    check_msrun(bench, CALLS[launcher], command)
    check_mpirun(bench, CALLS[launcher], command)


def check_msrun(bench: Ranks, call: list[str], command: list[str]) -> None:
    """The default, on one server and on the second one of two."""
    servers = {"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1", "WORKER_NUM": "4"}
    for environment, first, size in (({}, 0, "2"), (servers, 2, "4")):
        found = bench.ranks(*call, DEVICE_NUM=NUMBER, **environment)
        (job,) = found["msrun"]
        words = job["argv"][: job["argv"].index("train.py")]
        options = dict(zip(words[::2], words[1::2]))
        port = options.pop("--master_port")
        assert port == "8118" if environment else 1024 <= int(port) <= 65535
        run_dir = command[command.index("--run_dir") + 1]
        rest = [word for word in words if "=" in word]
        assert rest == ["--join=True", "--cluster_time_out=600"]
        assert words[:4] == ["--worker_num", size, "--local_worker_num", "2"]
        assert words[words.index("--master_addr") + 1] == environment.get("MASTER_ADDR", "127.0.0.1")
        assert options.get("--node_rank") == environment.get("NODE_RANK")
        assert words[words.index("--log_dir") + 1] == f"{run_dir}/msrun_log"
        assert job["env"].get("MS_NODE_TIMEOUT") == ("20" if environment else None)
        assert [rank["argv"] for rank in found["python"]] == [command] * 2
        assert {rank["cwd"] for rank in found["python"]} == {str(bench.model)}
        ranks = [[str(device), str(first + device), size, "2", None] for device in (0, 1)]
        assert [values(rank, OF_RANKS) for rank in found["python"]] == ranks


def check_mpirun(bench: Ranks, call: list[str], command: list[str]) -> None:
    found = bench.ranks(*call, DEVICE_NUM=NUMBER, LAUNCHER="mpirun")
    (job,) = found["mpirun"]
    run_dir = command[command.index("--run_dir") + 1]
    words = job["argv"][: job["argv"].index("train.py")]
    words = words[words.index("-n") :]
    assert words[:6] == ["-n", "2", "--bind-to", "none", "bash", "-c"]
    assert words[7:] == [f"{run_dir}/log_output", f"{bench.bin}/python"]
    assert [path.name for path in sorted(Path(run_dir, "log_output").iterdir())] == ["worker_0.log", "worker_1.log"]
    assert found["msrun"] == [] and [rank["argv"] for rank in found["python"]] == [command] * 2
    assert [values(rank, OF_RANKS) for rank in found["python"]] == [[None, None, "2", "2", None]] * 2
    numbers = [[rank["env"][f"OMPI_COMM_WORLD_{name}"] for name in ("RANK", "SIZE")] for rank in found["python"]]
    assert numbers == [["0", "2"], ["1", "2"]]


@pytest.mark.parametrize("launcher", TABLE_CALLS)
def test_rank_table_of_two_servers(launcher, tmp_path):
    """One process for each device of the server, in a folder of its own, whatever DEVICE_NUM says."""
    bench = Ranks(tmp_path, launcher)
    command = bench.command(CALLS[launcher])
    run_dir = command.index("--run_dir") + 1
    for server, environment in enumerate(({}, {"DEVICE_NUM": "8"})):
        found = bench.ranks(*TABLE_CALLS[launcher], SERVER_ID=str(server), **environment)
        assert found["msrun"] == found["mpirun"] == [] and len(found["python"]) == 2
        by_rank = sorted(enumerate(SERVERS[server]), key=lambda entry: entry[1][1])
        for job, (index, (device, rank)) in zip(found["python"], by_rank):
            assert values(job, OF_RANKS) == [str(device), str(rank), "4", "2", f"{bench.caller}/{TABLE}"]
            expected = [*command[:run_dir], f"{bench.caller}/train_parallel{index}", *command[run_dir + 1 :]]
            assert job["argv"] == expected and job["cwd"] == str(bench.model)


def test_every_launcher_is_tested():
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/scripts/*distribute*.sh")}
    assert found == set(CALLS)


# ---- Cores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [[3], [0, 1], [2, 5, 7], list(range(10, 34)), None])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_cores_of_each_device(cores, devices, tmp_path, monkeypatch, capsys):
    """Equal, disjoint shares of the cores that this process may use; none where there are too few, or no way to tell."""
    reader = re.search(r"(?ms)^RANK_TABLE_READER='\n(.*?)^'$", (ROOT / "utils/launchers/common.sh").read_text())[1]
    table = tmp_path / "table.json"
    server = {"device": [{"device_id": str(number), "rank_id": str(number)} for number in range(devices)]}
    table.write_text(json.dumps({"server_list": [server]}))
    monkeypatch.setattr(sys, "argv", ["-c", str(table), "0"])
    if cores is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores), raising=False)
    exec(compile(reader, "reader", "exec"), {})
    size, *lines = capsys.readouterr().out.splitlines()
    assert size == str(devices) and [line.split()[:2] for line in lines] == [[str(n), str(n)] for n in range(devices)]
    shares = [line.split()[2] for line in lines]
    if cores is None or len(cores) < devices:
        assert shares == ["-"] * devices
        return
    numbers = [[int(core) for core in share.split(",")] for share in shares]
    assert {len(share) for share in numbers} == {len(cores) // devices}
    flat = [core for share in numbers for core in share]
    assert len(set(flat)) == len(flat) and set(flat) <= set(cores)
