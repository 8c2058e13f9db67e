"""Writes the rank table of one Ascend server, which the launchers of distributed training take as RANK_TABLE_FILE.

    python utils/hccl_tools/hccl_tools.py --device_num "[0,8)"
    python utils/hccl_tools/hccl_tools.py --device_num "[0,4)" --visible_devices 4,5,6,7 --server_ip 10.0.0.1

The file hccl_<number>p_<devices>_<server_ip>.json, such as hccl_8p_01234567_10.0.0.1.json, appears in the current
directory in one step: an earlier file of this name stays as it is until the new one is complete.

Logical and physical ids: a physical id is the number of a device on the board, 0 to 7; hccn_tool and hccn.conf know
devices by it. --visible_devices lists the physical ids that this system sees, by default all eight in their order. The
place of a device in that list, counted from 0, is its logical id, and --device_num is a range of logical ids. The
second command above therefore takes the devices 4 to 7. In the table device_id is the physical id and rank_id counts
from 0; <devices> in the name of the file are the logical ids. Without --visible_devices the two are the same.

The addresses come from "hccn_tool -i <physical id> -ip -g"; where there is no hccn_tool on PATH, from the lines
address_<physical id>=<IPv4 address> of /etc/hccn.conf. --hccn_conf names another such file and leaves hccn_tool out.

Exit status: 0 written, 1 the addresses cannot be found or the file cannot be written here, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import codecs
import ipaddress
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

BOARD = 8  # devices of a server
RING = 4  # devices of each of its two halves
VERSION = "1.0"
STATUS = "completed"
HCCN_CONF = Path("/etc/hccn.conf")
QUERY_SECONDS = 30  # for the answer of hccn_tool
SHOWN_CHARACTERS = 300  # of what hccn_tool has printed, in an error

LARGEST_FILE = 16 << 20  # bytes of a file of addresses or a rank table; one of 4,096 devices has half a million
SHOWN_VALUE = 60  # characters of a wrong value in an error

RANGE = re.compile(r"\[\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*\)")
TOOL_LINE = re.compile(r"^[ \t]*ipaddr[ \t]*:(.*)$", re.MULTILINE)
CONF_LINE = re.compile(r"^[ \t]*address_([0-9]+)[ \t]*=(.*)$", re.MULTILINE)
CONF_FORM = "lines address_<physical id>=<IPv4 address>"


class EnvironmentProblem(Exception):
    """Something that the machine should provide is missing or wrong."""


# ---- Files -----------------------------------------------------------------------------------------------------------


def home_path(text: str) -> Path:
    """Returns the path of a text, which may begin with ~."""
    return Path(os.path.expanduser(text))


def file_content(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or too large for what it should be.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
    return content


def as_text(content: bytes) -> str:
    """Returns the text in a content: UTF-8, or UTF-16 where it begins with the mark of that; other bytes are replaced."""
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig", "replace")


def shown(value: object) -> str:
    """Returns a value as an error shows it: in short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a deep nesting
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_VALUE else text[:SHOWN_VALUE] + "..."


# ---- Command line ----------------------------------------------------------------------------------------------------


def device_range(text: str) -> range:
    """Reads a half-open range of logical ids, such as "[0,8)"; blanks are allowed.

    Raises:
        argparse.ArgumentTypeError: it is no such range, it is empty, or HCCL cannot connect its devices.
    """
    match = RANGE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is not a half-open range: write "[0,8)" for the devices 0 to 7')
    first, end = map(int, match.groups())
    if not first < end <= BOARD:
        raise argparse.ArgumentTypeError(
            f"{text!r} names no devices of a board: the first number must be below the second, which is {BOARD} at most; "
            'write "[0,8)" for the devices 0 to 7'
        )
    if first < RING < end and (first, end) != (0, BOARD):
        raise argparse.ArgumentTypeError(
            f"{text!r} crosses device {RING}: an Atlas 800 board joins the devices 0-3 and 4-7 to one HCCL ring each, "
            "and only all eight devices can work across the two; choose a range within [0,4) or [4,8), or [0,8)"
        )
    return range(first, end)


def device_list(text: str) -> tuple[int, ...]:
    """Reads physical ids, separated by commas; blanks are allowed.

    Raises:
        argparse.ArgumentTypeError: something else is in the list, or an id is there twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-7]", word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of physical ids from 0 to 7: write 4,5,6,7")
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise argparse.ArgumentTypeError(f"{text!r} lists {', '.join(twice)} more than once: list each device once")
    return tuple(map(int, words))


def ipv4(text: str) -> str:
    """Returns the IPv4 address of one host, without the blanks around it.

    Raises:
        ValueError: it is something else.
    """
    address = ipaddress.IPv4Address(text.strip())
    if address.is_unspecified or address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise ValueError(f"{address} is not the address of one host")
    return str(address)


def server_address(text: str) -> str:
    """Reads the value of --server_ip."""
    try:
        return ipv4(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 address such as 10.0.0.1: {error}") from error


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(description="Writes the rank table of one Ascend server to the current directory.")
    parser.add_argument(
        "--device_num",
        type=device_range,
        default=f"[0,{BOARD})",
        metavar="RANGE",
        help='half-open range of logical ids, places in the list of --visible_devices (default "%(default)s")',
    )
    parser.add_argument(
        "--visible_devices",
        type=device_list,
        default=",".join(map(str, range(BOARD))),
        metavar="IDS",
        help="physical ids of the devices that this system sees (default %(default)s)",
    )
    parser.add_argument("--server_ip", type=server_address, help="address of this server (default: that of its name)")
    parser.add_argument("--hccn_conf", type=home_path, help=f"file with {CONF_FORM}, read instead of asking hccn_tool")
    arguments = parser.parse_args(argv)
    logical, visible = arguments.device_num, arguments.visible_devices
    if logical.stop > len(visible):
        parser.error(
            f"--device_num [{logical.start},{logical.stop}) counts places in --visible_devices, which lists "
            f"{len(visible)} devices: choose a range within [0,{len(visible)}), or list more devices"
        )
    return arguments


# ---- Addresses -------------------------------------------------------------------------------------------------------


def host_address() -> str:
    """Returns the IPv4 address that this server's name stands for.

    Raises:
        EnvironmentProblem: it stands for none.
    """
    name = socket.gethostname()
    try:
        return ipv4(socket.gethostbyname(name))
    except (OSError, ValueError) as error:  # UnicodeError of an unusual name is a ValueError
        raise EnvironmentProblem(
            f"no IPv4 address found for this server, {name!r}: {error}; give --server_ip"
        ) from error


def device_addresses(devices: list[int], conf: Path | None) -> dict[int, str]:
    """Finds the addresses of the devices' network ports.

    Args:
        devices: physical ids.
        conf: file to read them from; None asks hccn_tool, or reads /etc/hccn.conf where there is none.

    Returns:
        Address of each physical id, in the order of `devices`.

    Raises:
        EnvironmentProblem: one is missing, is not an IPv4 address, or two devices have the same.
    """
    tool = shutil.which("hccn_tool") if conf is None else None
    if tool:
        found = {device: ask_hccn_tool(tool, device) for device in devices}
    else:
        found = read_hccn_conf(devices, conf or HCCN_CONF, "" if conf else "there is no hccn_tool on PATH, and ")
    owners: dict[str, int] = {}
    for device, address in found.items():
        other = owners.setdefault(address, device)
        if other != device:
            raise EnvironmentProblem(
                f"the devices {other} and {device} have the same address {address}: give each its own"
            )
    return found


def ask_hccn_tool(tool: str, device: int) -> str:
    """Asks hccn_tool for the address of one device.

    Raises:
        EnvironmentProblem: it does not answer, fails, or prints something else than one address.
    """
    question = f'device {device}: "hccn_tool -i {device} -ip -g"'
    mend = (
        f'set it with "hccn_tool -i {device} -ip -s address <address> netmask <mask>", '
        "or name a file of addresses with --hccn_conf"
    )
    try:
        status, output, errors = run_hccn_tool([tool, "-i", str(device), "-ip", "-g"])
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(f"{question} gave no answer in {QUERY_SECONDS} s; {mend}") from error
    except OSError as error:
        raise EnvironmentProblem(f"{question} cannot be run: {error}; {mend}") from error
    address = answered_address(output) if status == 0 else ""
    if not address:
        text = " ".join(f"{output}\n{errors}".split())[:SHOWN_CHARACTERS]
        raise EnvironmentProblem(
            f"{question} did not tell one IPv4 address in a line ipaddr:<address>; "
            f"it ended with status {status} and printed {text!r}; {mend}"
        )
    return address


def run_hccn_tool(command: list[str]) -> tuple[int, str, str]:
    """Returns the exit status, the output and the error output of a command."""
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=QUERY_SECONDS)
    return answer.returncode, answer.stdout.decode("utf-8", "replace"), answer.stderr.decode("utf-8", "replace")


def answered_address(output: str) -> str:
    """Returns the address in an answer of hccn_tool; the empty string unless there is exactly one."""
    found = TOOL_LINE.findall(output)
    try:
        return ipv4(found[0]) if len(found) == 1 else ""
    except ValueError:
        return ""


def read_hccn_conf(devices: list[int], path: Path, reason: str = "") -> dict[int, str]:
    """Reads the addresses of devices from a file such as /etc/hccn.conf.

    Args:
        devices: physical ids.
        path: the file, with lines address_<physical id>=<IPv4 address>; other lines do not count.
        reason: why the file is read, the beginning of the errors.

    Returns:
        Address of each physical id.

    Raises:
        EnvironmentProblem: the file cannot be read, or has not exactly one address for a device.
    """
    try:
        lines = CONF_LINE.findall(as_text(file_content(path)))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise EnvironmentProblem(
            f"{reason}{path} cannot be read ({why}): put the tools of the Ascend driver on PATH, "
            f"or name a file with {CONF_FORM} with --hccn_conf"
        ) from error
    try:
        return {device: configured_address(lines, device) for device in devices}
    except ValueError as error:
        raise EnvironmentProblem(f"{reason}{path} {error}") from error


def configured_address(lines: list[tuple[str, str]], device: int) -> str:
    """Returns the address of a device from pairs of physical id and address.

    Raises:
        ValueError: it has none, several, or one that is no IPv4 address.
    """
    values = sorted({value.strip() for number, value in lines if number == str(device)})
    form = f"it needs one line address_{device}=<IPv4 address>"
    if not values:
        raise ValueError(f"has no address for device {device}: {form}")
    if len(values) > 1:
        raise ValueError(f"has different addresses for device {device}, {' and '.join(map(shown, values[:3]))}: {form}")
    try:
        return ipv4(values[0])
    except ValueError as error:
        raise ValueError(
            f"has the address {shown(values[0])} for device {device} ({str(error)[:SHOWN_VALUE]}): {form}"
        ) from error


# ---- The table -------------------------------------------------------------------------------------------------------


def rank_table(server_ip: str, addresses: dict[int, str]) -> dict:
    """Returns the rank table of one server; the devices get their ranks in the order of `addresses`."""
    devices = [
        {"device_id": str(device), "device_ip": address, "rank_id": str(rank)}
        for rank, (device, address) in enumerate(addresses.items())
    ]
    return cluster_table([{"server_id": server_ip, "device": devices, "host_nic_ip": "reserve"}])


def cluster_table(servers: list[dict]) -> dict:
    """Returns the rank table of servers."""
    return {"version": VERSION, "server_count": str(len(servers)), "server_list": servers, "status": STATUS}


def write_table(table: dict, name: str) -> Path:
    """Writes a rank table to the current directory in one step, so that nobody sees a part of it.

    Raises:
        OSError: it cannot be written; a file of that name is then still the earlier one.
    """
    path = Path.cwd() / name
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(json.dumps(table, indent=4) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def doubts(server_ip: str, devices: list[int]) -> list[str]:
    """Returns what may keep a table that is right in itself from working."""
    found = []
    if ipaddress.IPv4Address(server_ip).is_loopback:
        found.append(f"{server_ip} is an address of every machine: give --server_ip to use this server with others")
    if len(devices) < BOARD and len({device // RING for device in devices}) > 1:
        found.append(f"the physical ids {devices} lie in both HCCL rings of an Atlas 800 board, which refuses that")
    if len(devices) not in (1, 2, RING, BOARD):
        found.append(f"{len(devices)} devices: HCCL on an Atlas 800 board works with 1, 2, 4 or 8 of them")
    return found


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    logical = arguments.device_num
    devices = [arguments.visible_devices[index] for index in logical]
    try:
        server_ip = arguments.server_ip or host_address()
        addresses = device_addresses(devices, arguments.hccn_conf)
        name = f"hccl_{len(devices)}p_{''.join(map(str, logical))}_{server_ip}.json"
        path = write_table(rank_table(server_ip, addresses), name)
    except (EnvironmentProblem, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for text in doubts(server_ip, devices):
        print(f"warning: {text}", file=sys.stderr)
    for rank, (device, address) in enumerate(addresses.items()):
        print(f"rank {rank}: device {device}, address {address}")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
