"""Tests of utils/hccl_tools with a stand-in for hccn_tool on PATH: what is written, what is refused, what launchers read."""

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
SERVER = "10.0.0.1"
TWO = f"hccl_2p_01_{SERVER}.json"
HCCN_TOOL = """#!/bin/sh
echo "$*" >>{calls}
if [ "$1 $3 $4" != "-i -ip -g" ]; then echo "wrong arguments"; exit 9; fi
{special}
echo "ipaddr:192.168.10$2.10$2"
echo "netmask:255.255.255.0"
"""


def server(name: str, devices: str, first_rank: int = 0) -> dict:
    """A server with the devices of the stand-in for hccn_tool."""
    entries = [
        {"device_id": i, "device_ip": f"192.168.10{i}.10{i}", "rank_id": str(rank)}
        for rank, i in enumerate(devices, start=first_rank)
    ]
    return {"server_id": name, "device": entries, "host_nic_ip": "reserve"}


def table(*servers: dict, **changes) -> dict:
    whole = {"version": "1.0", "server_count": str(len(servers)), "server_list": list(servers), "status": "completed"}
    return {**whole, **changes}


TWO_TEXT = json.dumps(table(server(SERVER, "01")), indent=4) + "\n"


class Bench:
    """A current directory, and a folder that is the whole PATH and holds a hccn_tool."""

    def __init__(self, root: Path, monkeypatch, capsys):
        self.bin, self.cwd, self.calls, self.capsys = root / "bin", root / "some where", root / "calls", capsys
        self.conf = root / "hccn.conf"
        for folder in (self.bin, self.cwd):
            folder.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.chdir(self.cwd)
        self.install()

    def install(self, special: str = "") -> None:
        """Puts a hccn_tool on PATH that knows 192.168.10<i>.10<i> for device i, after the shell commands `special`."""
        tool = self.bin / "hccn_tool"
        tool.write_text(HCCN_TOOL.format(calls=self.calls, special=special))
        tool.chmod(0o755)

    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def run(self, *arguments, program=hccl_tools, server=("--server_ip", SERVER)) -> tuple[int, str, str]:
        """Exit status, output and error output."""
        try:
            status = program.main([*(server if program is hccl_tools else ()), *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        return status, *self.capsys.readouterr()

    def refused(self, status: int, *words: str, arguments=(), **options) -> str:
        """Runs a program that must end with a status and an error with these words, and must write nothing."""
        before = self.content()
        found, output, errors = self.run(*arguments, **options)
        assert (found, output, self.content()) == (status, "", before), errors
        assert "Traceback" not in errors
        for word in ("error: ", *words):
            assert word in errors
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


@pytest.mark.parametrize("text", ["[0,2)", " [ 0 ,\t2 ) "])
def test_two_devices(bench, text):
    status, output, errors = bench.run("--device_num", text)
    assert (status, errors) == (0, "")
    assert bench.content() == {TWO: TWO_TEXT}
    assert bench.asked() == ["-i 0 -ip -g", "-i 1 -ip -g"]
    assert output.splitlines()[-1] == f"wrote {bench.cwd / TWO}"


RANGES = [(a, b) for a in range(4) for b in range(a + 1, 5)] + [(a, b) for a in range(4, 8) for b in range(a + 1, 9)]
IN_A_RING = [(f"[{a},{b})", "0,1,2,3,4,5,6,7", range(a, b), "01234567"[a:b]) for a, b in RANGES]


@pytest.mark.parametrize("source", ["hccn_tool", "file"])
@pytest.mark.parametrize(
    "text, visible, logical, expected",
    [
        *IN_A_RING,
        (None, None, range(8), "01234567"),
        ("[0, 8)", " 0, 1,2,3,4,5,6 ,7", range(8), "01234567"),
        ("[1,3)", "4,5,6,7", range(1, 3), "56"),
        ("[1,4)", "7,3,1,2,0", range(1, 4), "312"),
        ("[4,8)", "4,5,6,7,0,1,2,3", range(4, 8), "0123"),
    ],
)
def test_logical_range_takes_physical_devices(bench, source, text, visible, logical, expected):
    """The range and the file's name count places in the list; addresses and the table have the ids in the list."""
    bench.conf.write_text("".join(f"address_{i}=192.168.10{i}.10{i}\n" for i in range(8)))
    options = {"--device_num": text, "--visible_devices": visible, "--hccn_conf": source == "file" and bench.conf}
    status, _, errors = bench.run(*(word for option, value in options.items() if value for word in (option, value)))
    three = "warning: 3 devices: HCCL on an Atlas 800 board works with 1, 2, 4 or 8 of them\n"
    assert (status, errors) == (0, three if len(logical) == 3 else "")
    assert list(bench.content()) == [f"hccl_{len(logical)}p_{''.join(map(str, logical))}_{SERVER}.json"]
    assert bench.table() == table(server(SERVER, expected))
    assert bench.asked() == ([f"-i {i} -ip -g" for i in expected] if source == "hccn_tool" else [])


def test_physical_ids_of_both_rings_give_a_warning(bench):
    status, _, errors = bench.run("--device_num", "[0,2)", "--visible_devices", "3,4")
    assert status == 0 and errors.startswith("warning: the physical ids [3, 4] lie in both HCCL rings")


@pytest.mark.parametrize("address, warns", [("10.0.0.7", False), ("127.0.1.1", True)])
def test_address_of_the_host(bench, monkeypatch, address, warns):
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "gethostbyname", {"node7": address}.__getitem__)
    status, _, errors = bench.run("--device_num", "[0,1)", server=())
    assert (status, f"warning: {address} is an address of every machine: give --server_ip" in errors) == (0, warns)
    assert bench.content() == {f"hccl_1p_0_{address}.json": json.dumps(table(server(address, "0")), indent=4) + "\n"}


@pytest.mark.parametrize("answer", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_host_without_an_address(bench, monkeypatch, answer):
    def fail(name):
        raise answer

    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "gethostbyname", fail)
    errors = bench.refused(1, server=())
    assert errors == f"error: no IPv4 address found for this server, 'node7': {answer}; give --server_ip\n"


# ---- What hccl_tools refuses -----------------------------------------------------------------------------------------


ACROSS = "|".join(f"[{a},{b})" for a in range(4) for b in range(5, 9) if (a, b) != (0, 8))
WRONG = [
    ("device_num", "|8|[0,8]|(0,8)|[a,8)|[0,8)x|[-1,4)|[0,,8)|[,8)|[0.0,2)", "is not a half-open range"),
    ("device_num", "[0,0)|[8,8)|[3,1)|[0,9)|[8,9)", "names no devices of a board: the first number must be below"),
    ("device_num", ACROSS, "crosses device 4: an Atlas 800 board joins the devices 0-3 and 4-7 to one HCCL ring each"),
    ("visible_devices", "|0,|0,,1|a|0 1|8|0,-1|00", "is not a list of physical ids from 0 to 7"),
    ("visible_devices", "0,0|4,5,6,7, 4", "more than once: list each device once"),
    ("server_ip", "|host|10.0.0|10.0.0.256|::1|../x|0.0.0.0|224.0.0.1", "is not an IPv4 address"),
]


@pytest.mark.parametrize(
    "option, text, message", [(option, text, message) for option, texts, message in WRONG for text in texts.split("|")]
)
def test_wrong_usage(bench, option, text, message):
    bench.refused(2, f"argument --{option}: {text!r} ", message, arguments=[f"--{option}={text}"])
    assert bench.asked() == []


@pytest.mark.parametrize("devices, visible", [("[4,8)", "4,5,6,7"), ("[0,8)", "0,1,2,3,4,5,6"), ("[1,2)", "3")])
def test_range_beyond_the_visible_devices(bench, devices, visible):
    number = len(visible.split(","))
    words = (f"--device_num {devices} counts places", f"lists {number} devices: choose a range within [0,{number})")
    bench.refused(2, *words, arguments=["--device_num", devices, "--visible_devices", visible])


@pytest.mark.parametrize(
    "special, words",
    [
        ("exit 5", ("status 5", "printed ''")),
        ("echo 'hccn_tool: permission denied: 1.2.3.4' >&2; exit 1", ("status 1", "permission denied: 1.2.3.4")),
        ("echo 'ipaddr:192.168.1.1'; exit 3", ("status 3",)),
        ("echo 'error: ipaddr:192.168.1.1'; exit 0", ("printed 'error: ipaddr:192.168.1.1'",)),
        ("echo 'ipaddr:192.168.1.1 down'; exit 0", ("192.168.1.1 down",)),
        ("echo 'ipaddr:0.0.0.0'; exit 0", ("0.0.0.0",)),
        ("echo 'ipaddr:1.1.1.1'; echo 'ipaddr:1.1.1.2'; exit 0", ("1.1.1.1", "1.1.1.2")),
        ("printf '\\377\\376'; exit 0", ("status 0",)),
    ],
)
def test_hccn_tool_fails_or_prints_no_address(bench, monkeypatch, special, words):
    """For one device among others, although hccn.conf has the addresses."""
    bench.conf.write_text("address_0=1.0.0.1\naddress_1=1.0.0.2\n")
    monkeypatch.setattr(hccl_tools, "HCCN_CONF", bench.conf)
    bench.install(f'if [ "$2" = 1 ]; then {special}; fi')
    words = ('error: device 1: "hccn_tool -i 1 -ip -g"', "--hccn_conf", *words)
    bench.refused(1, *words, arguments=["--device_num", "[0,2)"])


def test_hccn_tool_hangs_or_cannot_be_run(bench, monkeypatch):
    monkeypatch.setattr(hccl_tools, "QUERY_SECONDS", 0.5)
    bench.install(f'exec {sys.executable} -S -c "import time; time.sleep(60)"')
    bench.refused(1, 'device 0: "hccn_tool -i 0 -ip -g" gave no answer in 0.5 s')
    (bench.bin / "hccn_tool").write_text("#!/no/such/interpreter\n")
    bench.refused(1, 'device 0: "hccn_tool -i 0 -ip -g" cannot be run: ')


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
def test_addresses_of_hccn_conf(bench, monkeypatch, option):
    """The usual file without hccn_tool, a named one also with it."""
    assert Path("/etc/hccn.conf") == hccl_tools.HCCN_CONF
    bench.conf.write_text(CONF)
    if not option:
        (bench.bin / "hccn_tool").unlink()
        monkeypatch.setattr(hccl_tools, "HCCN_CONF", bench.conf)
    assert bench.run("--device_num", "[0,2)", *(["--hccn_conf", bench.conf] if option else []))[::2] == (0, "")
    assert bench.content() == {TWO: TWO_TEXT} and bench.asked() == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_conf_as_windows_editors_write_it(bench, encoding, end):
    text = f"address_0=192.168.100.100{end}address_1=192.168.101.101{end}"
    bench.conf.write_bytes(text.encode(encoding))
    assert bench.run("--device_num", "[0,2)", "--hccn_conf", bench.conf)[::2] == (0, "")
    assert bench.content() == {TWO: TWO_TEXT}


@pytest.mark.parametrize(
    "kind, message", [("fifo", "is not a regular file"), ("folder", ""), ("large", "has more than 99 ")]
)
def test_a_conf_that_cannot_be_one(bench, monkeypatch, kind, message):
    monkeypatch.setattr(hccl_tools, "LARGEST_FILE", 99)
    if kind == "large":
        bench.conf.write_text("address_0=1.1.1.1\n" * 100)
    else:
        os.mkfifo(bench.conf) if kind == "fifo" else bench.conf.mkdir()
    arguments = ["--device_num", "[0,2)", "--hccn_conf", bench.conf]
    bench.refused(1, f"{bench.conf} cannot be read (", message, arguments=arguments)


@pytest.mark.parametrize(
    "text, message",
    [
        ("address_0=" + "1" * 100_000, "has the address '1111"),
        ("address_0=\u00b9.1.1.1", "has the address '\u00b9.1.1.1' for device 0"),
        ("".join(f"address_0=1.1.{i // 256}.{i % 256}\n" for i in range(5000)), "has different addresses for device 0"),
    ],
)
def test_odd_values_of_a_conf_are_one_short_line(bench, text, message):
    bench.conf.write_text(text)
    errors = bench.refused(1, message, arguments=["--device_num", "[0,1)", "--hccn_conf", bench.conf])
    assert errors.count("\n") == 1 and len(errors) < 500


@pytest.mark.parametrize(
    "text, message",
    [
        (CONF, "has no address for device 2: it needs one line address_2=<IPv4 address>"),
        (CONF + "address_2=\n", "has the address '' for device 2"),
        (CONF + "address_2=192.168.1\n", "has the address '192.168.1' for device 2"),
        (
            CONF + "address_2=1.1.1.1\naddress_2=1.1.1.2\n",
            "has different addresses for device 2, '1.1.1.1' and '1.1.1.2'",
        ),
        (CONF + "address_2=192.168.100.100\naddress_3=1.1.1.1\n", "devices 0 and 2 have the same address 192.168.100"),
        ("\0\x01", "has no address for device 0"),
        (None, "hccn.conf cannot be read (No such file or directory): put the tools of the Ascend driver on PATH"),
    ],
)
@pytest.mark.parametrize("option", [False, True])
def test_wrong_hccn_conf(bench, monkeypatch, text, message, option):
    (bench.bin / "hccn_tool").unlink()
    if text is not None:
        bench.conf.write_text(text)
    monkeypatch.setattr(hccl_tools, "HCCN_CONF", bench.conf)
    arguments = ["--device_num", "[0,4)", *(["--hccn_conf", bench.conf] if option else [])]
    errors = bench.refused(1, message, arguments=arguments)
    assert ("there is no hccn_tool on PATH" in errors) == (not option and "same address" not in message)


# ---- Merging ---------------------------------------------------------------------------------------------------------


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


def merge(bench: Bench, *paths) -> tuple[int, str, str]:
    return bench.run(*paths, program=merge_hccl)


def test_merge_keeps_the_order_of_the_arguments(bench, files):
    status, output, errors = merge(bench, *reversed(files(table(A), table(B))))
    assert (status, errors) == (0, "")
    text = bench.content()["hccl_2s_5p.json"]
    assert text == json.dumps(table(B, server("10.0.0.1", "01", 3)), indent=4) + "\n"
    assert output.splitlines() == [
        "SERVER_ID=0: server 10.0.0.2, ranks 0, 1, 2",
        "SERVER_ID=1: server 10.0.0.1, ranks 3, 4",
        f"wrote {bench.cwd}/hccl_2s_5p.json",
    ]


def test_merge_of_a_merged_table_keeps_the_order_of_ranks_and_other_fields(bench, files):
    other = server("10.0.0.2", "456")
    for device, rank in zip(other["device"], (9, 7, 8)):  # numbers, as other programs write them
        device["rank_id"] = rank
    other["device"][0]["device_port"], other["rack"] = "16666", "left"
    merged = table(server("10.0.0.3", "7", 6), other, server_count=2)
    assert merge(bench, *files(table(A), merged))[0] == 0
    assert list(bench.content()) == ["hccl_3s_6p.json"]
    for device, rank in zip(other["device"], "534"):
        device["rank_id"] = rank
    assert bench.table() == table(A, server("10.0.0.3", "7", 2), other)


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
        (json.dumps(table(B))[:-20], "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[]", "it holds no JSON object"),
        ("{}", "version is None, not '1.0'"),
        (table(B, status="initializing"), "status is 'initializing', not 'completed'"),
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
        (device_with(rank_id="\u00b2"), "has no number as device_id or rank_id"),
        (device_with(rank_id="\u0663"), "has no number as device_id or rank_id"),
        (device_with(rank_id=1.0), "has no number as device_id or rank_id"),
        (device_with(rank_id=10**9), "has no number as device_id or rank_id"),
        (json.dumps(device_with(rank_id="@")).replace('"@"', "1e400"), "'1e400' is not a finite number"),
        (json.dumps(device_with(x="@")).replace('"@"', "-Infinity"), "'-Infinity' is not a finite number"),
        (json.dumps(device_with(x="@")).replace('"@"', "NaN"), "'NaN' is not a finite number"),
        (json.dumps(device_with(x="@")).replace('"@"', "9" * 5000), ""),
        (json.dumps(device_with(rank_id="@")).replace('"@"', "9" * 4000), "has no number as device_id or rank_id"),
        (edited(lambda entry: entry.update(server_id="\ud800")), "a server has the server_id '\\ud800'"),
        (edited(lambda entry: entry.update(server_id="a\nb")), "a server has the server_id 'a\\nb'"),
        (edited(lambda entry: entry.update(server_id="a" * 300)), "a server has the server_id 'aaa"),
        (edited(lambda entry: entry.update(server_id=7)), "a server has the server_id 7"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_merge_refuses_what_is_no_rank_table(bench, files, place, bad, message):
    paths = files(*([bad, table(A)] if place == 0 else [table(A), bad]))
    errors = bench.refused(
        1, f"error: {paths[place]} is not ", message, "hccl_tools.py", arguments=paths, program=merge_hccl
    )
    assert errors.count("\n") == 1 and len(errors) < 500


@pytest.mark.parametrize("depth", [9, 300, 900, 5000])
@pytest.mark.parametrize("kind", ["[", '{"a":'])
def test_merge_refuses_levels_without_end(bench, files, depth, kind):
    """Also those that can be read, and not written again."""
    nested = kind * depth + "0" + {"[": "]"}.get(kind, "}") * depth
    paths = files(table(A), json.dumps(device_with(x="@")).replace('"@"', nested))
    bench.refused(1, f"error: {paths[1]} ", "write it anew with hccl_tools.py", arguments=paths, program=merge_hccl)


def test_merge_refuses_files_that_cannot_be_tables(bench, files, monkeypatch):
    (good,) = files(table(A))
    os.mkfifo(bench.cwd.parent / "pipe")
    monkeypatch.setattr(hccl_tools, "LARGEST_FILE", 10_000)
    (bench.cwd.parent / "large").write_text(json.dumps(table(B)) + " " * 10_000)
    for name, message in (("pipe", "is not a regular file"), ("large", "has more than 10,000 bytes")):
        bench.refused(1, message, arguments=[good, bench.cwd.parent / name], program=merge_hccl)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_merge_reads_what_windows_editors_write(bench, files, encoding):
    paths = files(table(A), table(B))
    paths[1].write_bytes(json.dumps(table(B)).encode(encoding))
    assert merge(bench, *paths)[::2] == (0, "")


@pytest.mark.parametrize(
    "tables, message",
    [
        ([A, C, server("10.0.0.1", "67")], "the server 10.0.0.1 is in {0} and again in {2}"),
        ([A, device_with(device_ip="192.168.101.101")], "the device_ip 192.168.101.101 is in {0} and again in {1}"),
        ([A, device_with(device_ip="192.168.104.104")], "the device_ip 192.168.104.104 is in {1} and again in {1}"),
    ],
)
def test_merge_refuses_a_server_or_an_address_that_is_there_twice(bench, files, tables, message):
    paths = files(*(entry if "status" in entry else table(entry) for entry in tables))
    bench.refused(1, message.format(*paths), arguments=paths, program=merge_hccl)


def test_merge_refuses_missing_files_and_one_alone(bench, files, tmp_path):
    (path,) = files(table(A))
    for missing in (tmp_path / "no.json", tmp_path):
        bench.refused(1, f"error: {missing} cannot be read", arguments=[path, missing], program=merge_hccl)
    bench.refused(2, f"got one file, {path}: give the rank tables of two", arguments=[path], program=merge_hccl)


# ---- No half file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["hccl_tools.py", "merge_hccl.py"])
def test_file_that_cannot_be_written_leaves_the_earlier_one(bench, files, tmp_path, program):
    bench.conf.write_text(CONF)
    name, arguments = {
        "hccl_tools.py": (TWO, ["--device_num", "[0,2)", "--server_ip", SERVER, "--hccn_conf", bench.conf]),
        "merge_hccl.py": ("hccl_2s_5p.json", files(table(A), table(B))),
    }[program]

    def run(limit):
        command = [sys.executable, "-B", str(ROOT / "utils/hccl_tools" / program), *map(str, arguments)]
        return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=60)

    (bench.cwd / name).write_text("earlier text")
    os.link(bench.cwd / name, tmp_path / "link")
    result = run(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert (result.returncode, result.stdout) == (1, "") and result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr and bench.content() == {name: "earlier text"}
    result = run(None)
    assert (result.returncode, result.stderr) == (0, "")
    assert list(bench.content()) == [name] and bench.table()["status"] == "completed"
    assert (tmp_path / "link").read_text() == "earlier text"  # replaced, not written over


def test_file_is_complete_and_on_disk_when_it_gets_its_name(bench, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_replace(source, target):
        events.append((Path(source).parent, Path(source).read_text(), Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda number: events.append("fsync") or fsync(number))
    monkeypatch.setattr(os, "replace", note_replace)
    assert bench.run("--device_num", "[0,2)")[0] == 0
    assert events == ["fsync", (bench.cwd, TWO_TEXT, TWO)]


# ---- The launchers ---------------------------------------------------------------------------------------------------


def read_by_launcher(name: str, server_id: int) -> list[str]:
    """What the launchers make of a rank table: number of ranks, of devices here, and device and rank of each."""
    script = (
        f'set -euo pipefail; source "{ROOT}/utils/launchers/common.sh"; find_python; '
        f'read_rank_table "{name}"; echo "$RANK_SIZE $DEVICE_NUM"; echo "$DEVICES"'
    )
    command = [shutil.which("bash", path=os.defpath), "-c", script]
    environment = {"PATH": os.defpath, "PYTHON": sys.executable, "SERVER_ID": str(server_id)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    first, *devices = result.stdout.splitlines()
    return [first, *[" ".join(line.split()[:2]) for line in devices]]


def test_launchers_accept_the_tables(bench, files):
    assert bench.run("--visible_devices", "4,5,6,7", "--device_num", "[0,4)")[0] == 0
    one = f"hccl_4p_0123_{SERVER}.json"
    assert read_by_launcher(one, 0) == ["4 4", "4 0", "5 1", "6 2", "7 3"]
    (other,) = files(table(server("10.0.0.3", "0")))
    assert merge(bench, other, one)[0] == 0
    assert read_by_launcher("hccl_2s_5p.json", 0) == ["5 1", "0 0"]
    assert read_by_launcher("hccl_2s_5p.json", 1) == ["5 4", "4 1", "5 2", "6 3", "7 4"]
