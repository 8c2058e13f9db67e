"""Tests of utils/hccl_tools with a stand-in for hccn_tool on PATH: what is written, what is refused, what the launchers read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# The programs import each other as files of one folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils" / "hccl_tools"))

import hccl_tools  # noqa: I001
import merge_hccl

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "utils" / "hccl_tools"
SERVER = "10.0.0.1"
TWO = f"hccl_2p_01_{SERVER}.json"
TWO_TEXT = """\
{
    "version": "1.0",
    "server_count": "1",
    "server_list": [
        {
            "server_id": "10.0.0.1",
            "device": [
                {
                    "device_id": "0",
                    "device_ip": "192.168.100.100",
                    "rank_id": "0"
                },
                {
                    "device_id": "1",
                    "device_ip": "192.168.101.101",
                    "rank_id": "1"
                }
            ],
            "host_nic_ip": "reserve"
        }
    ],
    "status": "completed"
}
"""
HCCN_TOOL = """#!/bin/sh
echo "$*" >>{calls}
if [ "$1 $3 $4" != "-i -ip -g" ]; then echo "wrong arguments"; exit 9; fi
{special}
echo "ipaddr:192.168.10$2.10$2"
echo "netmask:255.255.255.0"
"""


class Bench:
    """A current directory, and a folder that is the whole PATH and may hold a hccn_tool."""

    def __init__(self, root: Path, monkeypatch, capsys):
        self.bin, self.cwd, self.calls, self.capsys = root / "bin", root / "some where", root / "calls", capsys
        for folder in (self.bin, self.cwd):
            folder.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.chdir(self.cwd)

    def install(self, special: str = "") -> None:
        """Puts a hccn_tool on PATH that knows 192.168.10<i>.10<i> for device i, after the shell commands `special`."""
        tool = self.bin / "hccn_tool"
        tool.write_text(HCCN_TOOL.format(calls=self.calls, special=special))
        tool.chmod(0o755)

    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return self.main(hccl_tools, "--server_ip", SERVER, *arguments)

    def main(self, program, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output and error output."""
        try:
            status = program.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *self.capsys.readouterr()

    def refused(self, status: int, *words: str, arguments=(), program=hccl_tools) -> str:
        """Runs a program that must end with a status and an error with these words, and must write nothing."""
        before = self.content()
        server = ["--server_ip", SERVER] if program is hccl_tools else []
        found, output, errors = self.main(program, *server, *arguments)
        assert (found, output) == (status, ""), errors
        assert "error: " in errors and "Traceback" not in errors
        for word in words:
            assert word in errors
        assert self.content() == before
        return errors

    def content(self) -> dict[str, str]:
        return {path.name: path.read_text(errors="replace") for path in self.cwd.iterdir()}

    def table(self) -> dict:
        """The only file in the current directory."""
        (text,) = self.content().values()
        return json.loads(text)


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    return Bench(tmp_path, monkeypatch, capsys)


# ---- What hccl_tools writes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[0,2)", "[0, 2)", " [ 0 ,\t2 ) "])
def test_two_devices(bench, text):
    bench.install()
    status, output, errors = bench.run("--device_num", text)
    assert (status, errors) == (0, "")
    assert bench.content() == {TWO: TWO_TEXT}
    assert bench.asked() == ["-i 0 -ip -g", "-i 1 -ip -g"]
    assert output.splitlines()[-1] == f"wrote {bench.cwd / TWO}"


EIGHT = [[], ["--device_num", "[0,8)"], ["--device_num", "[0, 8)", "--visible_devices", "0, 1,2,3,4,5,6 ,7"]]


@pytest.mark.parametrize("arguments", EIGHT)
def test_eight_devices(bench, arguments):
    bench.install()
    assert bench.run(*arguments)[::2] == (0, "")
    assert list(bench.content()) == [f"hccl_8p_01234567_{SERVER}.json"]
    devices = bench.table()["server_list"][0]["device"]
    assert devices == [
        {"device_id": str(i), "device_ip": f"192.168.10{i}.10{i}", "rank_id": str(i)} for i in range(8)
    ]  # fmt: skip


RANGES = [(a, b) for a in range(4) for b in range(a + 1, 5)] + [(a, b) for a in range(4, 8) for b in range(a + 1, 9)]


@pytest.mark.parametrize("first, end", RANGES)
def test_every_range_within_a_ring(bench, first, end):
    bench.install()
    status, _, errors = bench.run("--device_num", f"[{first},{end})")
    three = "warning: 3 devices: HCCL on an Atlas 800 board works with 1, 2, 4 or 8 of them\n"
    assert (status, errors) == (0, three if end - first == 3 else "")
    ids = [str(i) for i in range(first, end)]
    assert list(bench.content()) == [f"hccl_{len(ids)}p_{''.join(ids)}_{SERVER}.json"]
    devices = bench.table()["server_list"][0]["device"]
    assert [device["device_id"] for device in devices] == ids
    assert [device["rank_id"] for device in devices] == [str(i) for i in range(len(ids))]


@pytest.mark.parametrize(
    "visible, devices, name, expected",
    [
        ("4,5,6,7", "[0,4)", "hccl_4p_0123_", "4567"),
        (" 4, 5 ,6,7", "[1,3)", "hccl_2p_12_", "56"),
        ("7,3,1,2,0", "[1,4)", "hccl_3p_123_", "312"),
        ("5", "[0,1)", "hccl_1p_0_", "5"),
        ("4,5,6,7,0,1,2,3", "[4,8)", "hccl_4p_4567_", "0123"),
        ("7,6,5,4,3,2,1,0", "[0,8)", "hccl_8p_01234567_", "76543210"),
    ],
)
@pytest.mark.parametrize("source", ["hccn_tool", "file"])
def test_logical_range_takes_physical_devices(bench, source, visible, devices, name, expected):
    """The range and the file's name count places in the list; addresses and the table have the ids in the list."""
    conf = []
    if source == "hccn_tool":
        bench.install()
    else:
        path = bench.bin / "conf"
        path.write_text("".join(f"address_{i}=192.168.10{i}.10{i}\n" for i in range(8)))
        conf = ["--hccn_conf", path]
    assert bench.run("--device_num", devices, "--visible_devices", visible, *conf)[0] == 0
    assert list(bench.content()) == [f"{name}{SERVER}.json"]
    (server,) = bench.table()["server_list"]
    assert server["device"] == [
        {"device_id": i, "device_ip": f"192.168.10{i}.10{i}", "rank_id": str(rank)} for rank, i in enumerate(expected)
    ]
    assert bench.asked() == ([f"-i {i} -ip -g" for i in expected] if source == "hccn_tool" else [])


def test_physical_ids_of_both_rings_give_a_warning(bench):
    bench.install()
    status, _, errors = bench.run("--device_num", "[0,2)", "--visible_devices", "3,4")
    assert status == 0 and errors.startswith("warning: the physical ids [3, 4] lie in both HCCL rings")
    assert bench.run("--device_num", "[0,2)", "--visible_devices", "5,4")[::2] == (0, "")


def test_address_of_the_host(bench, monkeypatch):
    bench.install()
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "gethostbyname", {"node7": "10.0.0.7"}.__getitem__)
    assert bench.main(hccl_tools, "--device_num", "[0,1)")[::2] == (0, "")
    assert list(bench.content()) == ["hccl_1p_0_10.0.0.7.json"]
    assert bench.table()["server_list"][0]["server_id"] == "10.0.0.7"


def test_loopback_address_of_the_host_gives_a_warning(bench, monkeypatch):
    bench.install()
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    status, _, errors = bench.main(hccl_tools, "--device_num", "[0,1)")
    assert status == 0 and "warning: 127.0.1.1 is an address of every machine: give --server_ip" in errors


@pytest.mark.parametrize("answer", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_host_without_an_address(bench, monkeypatch, answer):
    def fail(name):
        raise answer

    bench.install()
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "gethostbyname", fail)
    status, output, errors = bench.main(hccl_tools)
    assert (status, output, bench.content()) == (1, "", {})
    assert errors == f"error: no IPv4 address found for this server, 'node7': {answer}; give --server_ip\n"


# ---- What hccl_tools refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "0,8",
        "[0,8]",
        "(0,8)",
        "[0-8)",
        "[a,8)",
        "[0,8)x",
        "[-1,4)",
        "[0;8)",
        "[0,,8)",
        "[,8)",
        "[0,8",
        "[0.0,2)",
    ],
)
def test_no_range(bench, text):
    bench.install()
    bench.refused(2, f"argument --device_num: {text!r} is not a half-open range", arguments=[f"--device_num={text}"])
    assert bench.asked() == []


@pytest.mark.parametrize("text", ["[2,2)", "[0,0)", "[8,8)", "[3,1)", "[0,9)", "[4,12)", "[8,9)", "[10,20)"])
def test_range_without_devices_of_the_board(bench, text):
    bench.refused(2, f"{text!r} names no devices of a board", "8 at most", arguments=["--device_num", text])


@pytest.mark.parametrize("text", [f"[{a},{b})" for a in range(4) for b in range(5, 9) if (a, b) != (0, 8)])
def test_range_across_the_rings(bench, text):
    words = (f"{text!r} crosses device 4", "Atlas 800", "HCCL ring", "[0,4) or [4,8), or [0,8)")
    bench.refused(2, *words, arguments=["--device_num", text])


@pytest.mark.parametrize(
    "visible, message",
    [
        *[
            (text, "is not a list of physical ids from 0 to 7")
            for text in ("", "0,", "0,,1", "a", "0 1", "8", "0,-1", "00")
        ],
        *[(text, "more than once: list each device once") for text in ("0,0", "4,5,6,7, 4")],
    ],
)
def test_wrong_list_of_visible_devices(bench, visible, message):
    bench.install()
    bench.refused(2, f"argument --visible_devices: {visible!r} ", message, arguments=[f"--visible_devices={visible}"])


@pytest.mark.parametrize("devices, visible", [("[4,8)", "4,5,6,7"), ("[0,8)", "0,1,2,3,4,5,6"), ("[1,2)", "3")])
def test_range_beyond_the_visible_devices(bench, devices, visible):
    bench.install()
    number = len(visible.split(","))
    words = (f"--device_num {devices} counts places", f"lists {number} devices: choose a range within [0,{number})")
    bench.refused(2, *words, arguments=["--device_num", devices, "--visible_devices", visible])


@pytest.mark.parametrize(
    "text", ["", "host", "10.0.0", "10.0.0.256", "10.0.0.1.2", "::1", "../x", "0.0.0.0", "224.0.0.1"]
)
def test_wrong_server_address(bench, text):
    bench.install()
    words = f"argument --server_ip: {text!r} is not an IPv4 address"
    bench.refused(2, words, arguments=["--device_num", "[0,1)", f"--server_ip={text}"])


@pytest.mark.parametrize(
    "special, words",
    [
        ("exit 5", ("status 5", "printed ''")),
        ("echo 'hccn_tool: permission denied: 1.2.3.4' >&2; exit 1", ("status 1", "permission denied: 1.2.3.4")),
        ("echo 'ipaddr:192.168.1.1'; exit 3", ("status 3",)),
        ("echo 'Cmd os not support: 192.168.1.1'; exit 0", ("Cmd os not support: 192.168.1.1",)),
        ("echo 'error: ipaddr:192.168.1.1'; exit 0", ("printed 'error: ipaddr:192.168.1.1'",)),
        ("echo 'ipaddr:not set'; exit 0", ("printed 'ipaddr:not set'",)),
        ("echo 'ipaddr:192.168.1.1 down'; exit 0", ("192.168.1.1 down",)),
        ("echo 'ipaddr:300.1.1.1'; exit 0", ("300.1.1.1",)),
        ("echo 'ipaddr:0.0.0.0'; exit 0", ("0.0.0.0",)),
        ("echo 'ipaddr:1.1.1.1'; echo 'ipaddr:1.1.1.2'; exit 0", ("1.1.1.1", "1.1.1.2")),
        ("printf '\\377\\376'; exit 0", ("status 0",)),
        ("exit 0", ("printed ''",)),
    ],
)
def test_hccn_tool_fails_or_prints_no_address(bench, monkeypatch, tmp_path, special, words):
    """For one device among others, although hccn.conf has the addresses."""
    conf = tmp_path / "hccn.conf"
    conf.write_text("address_0=1.0.0.1\naddress_1=1.0.0.2\n")
    monkeypatch.setattr(hccl_tools, "HCCN_CONF", conf)
    bench.install(f'if [ "$2" = 1 ]; then {special}; fi')
    command = '"hccn_tool -i 1 -ip -g"'
    bench.refused(1, f"error: device 1: {command}", "--hccn_conf", *words, arguments=["--device_num", "[0,2)"])
    assert bench.run("--device_num", "[0,2)", "--hccn_conf", conf)[::2] == (0, "")
    assert [device["device_ip"] for device in bench.table()["server_list"][0]["device"]] == ["1.0.0.1", "1.0.0.2"]


def test_hccn_tool_hangs(bench, monkeypatch):
    monkeypatch.setattr(hccl_tools, "QUERY_SECONDS", 0.5)
    bench.install(f'exec {sys.executable} -S -c "import time; time.sleep(60)"')
    words = 'device 0: "hccn_tool -i 0 -ip -g" gave no answer in 0.5 s'
    bench.refused(1, words, arguments=["--device_num", "[0,1)"])


def test_hccn_tool_cannot_be_run(bench):
    bench.install()
    (bench.bin / "hccn_tool").write_text("#!/no/such/interpreter\n")
    bench.refused(1, 'device 0: "hccn_tool -i 0 -ip -g" cannot be run: ', arguments=["--device_num", "[0,1)"])


def test_devices_with_the_same_address(bench):
    bench.install('if [ "$2" = 3 ]; then echo ipaddr:192.168.101.101; exit 0; fi')
    words = "the devices 1 and 3 have the same address 192.168.101.101"
    bench.refused(1, words, arguments=["--device_num", "[0,4)"])


# ---- hccn.conf -------------------------------------------------------------------------------------------------------

CONF = """\
# address_0=9.9.9.9
netmask_0=255.255.255.0
address_1=192.168.101.101
 address_0 = 192.168.100.100\t
IPv6address_0=fe80::1
address_10=1.2.3.4
arp_0=-i eth0 address_0=8.8.8.8
"""


@pytest.mark.parametrize("option", [False, True])
def test_addresses_of_hccn_conf(bench, monkeypatch, tmp_path, option):
    """The usual file without hccn_tool, a named one also with it."""
    conf = tmp_path / "hccn.conf"
    conf.write_text(CONF)
    if option:
        bench.install("exit 1")
    else:
        monkeypatch.setattr(hccl_tools, "HCCN_CONF", conf)
    assert bench.run("--device_num", "[0,2)", *(["--hccn_conf", conf] if option else []))[::2] == (0, "")
    assert bench.content() == {TWO: TWO_TEXT} and bench.asked() == []


def test_hccn_conf_has_its_usual_place():
    assert Path("/etc/hccn.conf") == hccl_tools.HCCN_CONF


def test_neither_hccn_tool_nor_hccn_conf(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(hccl_tools, "HCCN_CONF", tmp_path / "no.conf")
    words = f"there is no hccn_tool on PATH, and {tmp_path}/no.conf cannot be read (No such file or directory)"
    bench.refused(1, words, "tools of the Ascend driver", "with --hccn_conf")


@pytest.mark.parametrize(
    "text, message",
    [
        (CONF, "has no address for device 2: it needs one line address_2=<IPv4 address>"),
        (CONF + "address_2=\n", "has the address '' for device 2"),
        (CONF + "address_2=192.168.1\n", "has the address '192.168.1' for device 2"),
        (CONF + "address_2=1.1.1.1\naddress_2=1.1.1.2\n", "has different addresses for device 2, 1.1.1.1 and 1.1.1.2"),
        (
            CONF + "address_2=192.168.100.100\naddress_3=1.1.1.1\n",
            "the devices 0 and 2 have the same address 192.168.100.100",
        ),
        ("\0\x01", "has no address for device 0"),
    ],
)
@pytest.mark.parametrize("option", [False, True])
def test_wrong_hccn_conf(bench, monkeypatch, tmp_path, text, message, option):
    conf = tmp_path / "hccn.conf"
    conf.write_text(text)
    monkeypatch.setattr(hccl_tools, "HCCN_CONF", conf)
    arguments = ["--device_num", "[0,4)", *(["--hccn_conf", conf] if option else [])]
    errors = bench.refused(1, message, arguments=arguments)
    assert ("there is no hccn_tool on PATH" in errors) == (not option and "same address" not in message)


@pytest.mark.parametrize("name", ["no.conf", "."])
def test_named_hccn_conf_cannot_be_read(bench, tmp_path, name):
    bench.install()
    errors = bench.refused(1, f"error: {tmp_path / name} cannot be read", arguments=["--hccn_conf", tmp_path / name])
    assert "no hccn_tool" not in errors


# ---- Merging ---------------------------------------------------------------------------------------------------------


def server(name: str, devices: str, first_rank: int = 0) -> dict:
    """A server with devices whose addresses end in their ids."""
    entries = [
        {"device_id": i, "device_ip": f"192.{name[-1]}.0.{i}", "rank_id": str(rank)}
        for rank, i in enumerate(devices, start=first_rank)
    ]
    return {"server_id": name, "device": entries, "host_nic_ip": "reserve"}


def table(*servers: dict, **changes) -> dict:
    whole = {"version": "1.0", "server_count": str(len(servers)), "server_list": list(servers), "status": "completed"}
    return {**whole, **changes}


@pytest.fixture
def files(tmp_path):
    """Puts tables into files outside the current directory and returns their paths."""

    def write(*tables) -> list[Path]:
        paths = [tmp_path / f"table {number}.json" for number in range(len(tables))]
        for path, content in zip(paths, tables):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return paths

    return write


A, B, C = server("10.0.0.1", "01"), server("10.0.0.2", "456"), server("10.0.0.3", "7")


def test_merge_keeps_the_order_of_the_arguments(bench, files):
    status, output, errors = bench.main(merge_hccl, *reversed(files(table(A), table(B))))
    assert (status, errors) == (0, "")
    text = bench.content()["hccl_2s_5p.json"]
    assert text == json.dumps(table(B, server("10.0.0.1", "01", 3)), indent=4) + "\n"
    assert output.splitlines() == [
        "SERVER_ID=0: server 10.0.0.2, ranks 0, 1, 2",
        "SERVER_ID=1: server 10.0.0.1, ranks 3, 4",
        f"wrote {bench.cwd}/hccl_2s_5p.json",
    ]


def test_merge_of_what_hccl_tools_writes(bench):
    bench.install()
    assert bench.run("--device_num", "[0,2)")[0] == 0
    bench.install('echo "ipaddr:192.168.200.$2"; exit 0')
    assert bench.main(hccl_tools, "--device_num", "[0,2)", "--server_ip", "10.0.0.2")[0] == 0
    names = [TWO, "hccl_2p_01_10.0.0.2.json"]
    first, second = (json.loads(bench.content()[name])["server_list"][0] for name in names)
    for device, rank in zip(second["device"], "23"):
        device["rank_id"] = rank
    assert bench.main(merge_hccl, *names)[0] == 0
    assert sorted(bench.content()) == sorted([*names, "hccl_2s_4p.json"])
    assert json.loads(bench.content()["hccl_2s_4p.json"]) == table(first, second)
    bench.refused(1, "the server 10.0.0.1 is in", arguments=sorted(bench.content()), program=merge_hccl)  # hccl*.json


def test_merge_of_a_merged_table(bench, files):
    merged = table(server("10.0.0.3", "7"), server("10.0.0.2", "456", 1))
    assert bench.main(merge_hccl, *files(table(A), merged))[0] == 0
    assert bench.table() == table(A, server("10.0.0.3", "7", 2), server("10.0.0.2", "456", 3))
    assert list(bench.content()) == ["hccl_3s_6p.json"]


def test_merge_keeps_the_order_of_ranks_within_a_file_and_other_fields(bench, files):
    other = server("10.0.0.2", "456")
    for device, rank in zip(other["device"], (9, 7, 8)):  # numbers, as other programs write them
        device["rank_id"] = rank
    other["device"][0]["device_port"], other["rack"] = "16666", "left"
    assert bench.main(merge_hccl, *files(table(A), table(other, server_count=1)))[0] == 0
    result = bench.table()["server_list"][1]
    assert [device["rank_id"] for device in result["device"]] == ["4", "2", "3"]
    assert (result["device"][0]["device_port"], result["rack"]) == ("16666", "left")


def edited(change) -> dict:
    """A good table of the server B after a change of its server entry."""
    copy = json.loads(json.dumps(B))
    change(copy)
    return table(copy)


def device_with(**changes) -> dict:
    return edited(lambda entry: entry["device"][1].update(changes))


@pytest.mark.parametrize(
    "bad, message",
    [
        ("", "is not JSON"),
        (json.dumps(table(B))[:-20], "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[]", "it holds no JSON object"),
        ("{}", "version is None, not '1.0'"),
        (table(B, version="1.2"), "version is '1.2', not '1.0'"),
        (table(B, status="initializing"), "status is 'initializing', not 'completed'"),
        ({key: value for key, value in table(B).items() if key != "status"}, "status is None, not 'completed'"),
        (table(), "server_list is not a list of servers"),
        (table(B, server_list={"0": B}), "server_list is not a list of servers"),
        (table(B, server_count="2"), "server_count is '2', server_list holds 1"),
        (table(B, server_count=True), "server_count is True"),
        (table("10.0.0.2"), "a server has no server_id"),
        (edited(lambda entry: entry.pop("server_id")), "a server has no server_id"),
        (edited(lambda entry: entry.update(server_id="")), "a server has no server_id"),
        (edited(lambda entry: entry.update(device=[])), "server 10.0.0.2 lists no device"),
        (edited(lambda entry: entry.pop("device")), "server 10.0.0.2 lists no device"),
        (edited(lambda entry: entry["device"].append("5")), "has no number as device_id or rank_id: '5'"),
        (device_with(device_id=None), "has no number as device_id or rank_id"),
        (device_with(rank_id="-1"), "has no number as device_id or rank_id"),
        (device_with(rank_id="9" * 5000), "has no number as device_id or rank_id"),
        (device_with(device_ip="a"), "device 5 of server 10.0.0.2 has the device_ip 'a'"),
        (device_with(device_ip="1.1.1.1 "), "device 5 of server 10.0.0.2 has the device_ip '1.1.1.1 '"),
        (device_with(device_ip=None), "device 5 of server 10.0.0.2 has the device_ip None"),
        (device_with(device_id="4"), "server 10.0.0.2 lists a device twice: [4, 4, 6]"),
        (device_with(rank_id="2"), "the rank ids [0, 2, 2] are not different from each other"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_merge_refuses_what_is_no_rank_table(bench, files, place, bad, message):
    paths = files(*([bad, table(A)] if place == 0 else [table(A), bad]))
    bench.refused(1, f"error: {paths[place]} is not ", message, "hccl_tools.py", arguments=paths, program=merge_hccl)


def test_merge_refuses_a_server_or_an_address_that_is_there_twice(bench, files):
    paths = files(table(A), table(C), table(server("10.0.0.1", "67")))
    message = f"the server 10.0.0.1 is in {paths[0]} and again in {paths[2]}"
    bench.refused(1, message, arguments=paths, program=merge_hccl)
    bench.refused(1, "the server 10.0.0.1 is in", arguments=[paths[0], paths[0]], program=merge_hccl)
    paths = files(table(A), device_with(device_ip="192.1.0.1"))
    message = f"the device_ip 192.1.0.1 is in {paths[0]} and again in {paths[1]}"
    bench.refused(1, message, arguments=paths, program=merge_hccl)
    paths = files(table(A), device_with(device_ip="192.2.0.4"))
    bench.refused(1, "the device_ip 192.2.0.4 is in", arguments=paths, program=merge_hccl)


def test_merge_refuses_missing_files_and_one_alone(bench, files, tmp_path):
    (path,) = files(table(A))
    missing = tmp_path / "no.json"
    bench.refused(1, f"error: {missing} cannot be read", arguments=[path, missing], program=merge_hccl)
    bench.refused(1, f"error: {tmp_path} cannot be read", arguments=[tmp_path, path], program=merge_hccl)
    bench.refused(2, f"got one file, {path}: give the rank tables of two", arguments=[path], program=merge_hccl)
    bench.refused(2, "arguments are required: FILE", program=merge_hccl)


# ---- No half file ----------------------------------------------------------------------------------------------------


def as_program(bench: Bench, program: str, *arguments, largest: int | None = None) -> subprocess.CompletedProcess:
    """Runs a program as its user does, perhaps where no file can have more bytes than `largest`."""
    limit = None if largest is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    command = [sys.executable, "-B", str(TOOLS / program), *map(str, arguments)]
    return subprocess.run(command, cwd=bench.cwd, preexec_fn=limit, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("program", ["hccl_tools.py", "merge_hccl.py"])
@pytest.mark.parametrize("earlier", [None, "earlier text"])
def test_file_that_cannot_be_written_leaves_the_earlier_one(bench, files, tmp_path, program, earlier):
    conf = tmp_path / "hccn.conf"
    conf.write_text(CONF)
    name, arguments = {
        "hccl_tools.py": (TWO, ["--device_num", "[0,2)", "--server_ip", SERVER, "--hccn_conf", conf]),
        "merge_hccl.py": ("hccl_2s_5p.json", files(table(A), table(B))),
    }[program]
    before = {} if earlier is None else {name: earlier}
    for path, text in before.items():
        (bench.cwd / path).write_text(text)
        os.link(bench.cwd / path, tmp_path / "link")
    result = as_program(bench, program, *arguments, largest=100)
    assert (result.returncode, result.stdout) == (1, "") and result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr and bench.content() == before
    result = as_program(bench, program, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert list(bench.content()) == [name] and bench.table()["status"] == "completed"
    if earlier:
        assert (tmp_path / "link").read_text() == earlier  # replaced, not written over


def test_file_is_complete_and_on_disk_when_it_gets_its_name(bench, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_replace(source, target):
        events.append((Path(source).parent, Path(source).read_text(), Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda number: events.append("fsync") or fsync(number))
    monkeypatch.setattr(os, "replace", note_replace)
    bench.install()
    assert bench.run("--device_num", "[0,2)")[0] == 0
    assert events == ["fsync", (bench.cwd, TWO_TEXT, TWO)]


def test_folder_in_the_place_of_the_file(bench):
    bench.install()
    (bench.cwd / TWO).mkdir()
    status, output, errors = bench.run("--device_num", "[0,2)")
    assert (status, output) == (1, "") and "Is a directory" in errors
    assert [path.name for path in bench.cwd.iterdir()] == [TWO]


# ---- The launchers ---------------------------------------------------------------------------------------------------


def read_by_launcher(bench: Bench, name: str, server_id: int) -> list[str]:
    """What the launchers make of a rank table: number of ranks, of devices here, and device and rank of each."""
    script = (
        f'set -euo pipefail; source "{ROOT}/utils/launchers/common.sh"; find_python; '
        f'read_rank_table "{name}"; echo "$RANK_SIZE $DEVICE_NUM"; echo "$DEVICES"'
    )
    result = subprocess.run(
        [shutil.which("bash", path=os.defpath), "-c", script],
        cwd=bench.cwd,
        env={"PATH": os.defpath, "PYTHON": sys.executable, "SERVER_ID": str(server_id)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    first, *devices = result.stdout.splitlines()
    return [first, *[" ".join(line.split()[:2]) for line in devices]]


def test_launchers_accept_the_tables(bench, files):
    bench.install()
    visible = ["--visible_devices", "4,5,6,7", "--device_num"]
    assert bench.run(*visible, "[0,4)")[0] == 0
    one = f"hccl_4p_0123_{SERVER}.json"
    assert read_by_launcher(bench, one, 0) == ["4 4", "4 0", "5 1", "6 2", "7 3"]
    (other,) = files(table(C))
    assert bench.main(merge_hccl, other, one)[0] == 0
    assert read_by_launcher(bench, "hccl_2s_5p.json", 0) == ["5 1", "7 0"]
    assert read_by_launcher(bench, "hccl_2s_5p.json", 1) == ["5 4", "4 1", "5 2", "6 3", "7 4"]
