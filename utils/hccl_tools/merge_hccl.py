"""Merges the rank tables of several Ascend servers, written by hccl_tools.py, to one of the whole cluster.

    python utils/hccl_tools/merge_hccl.py hccl_8p_01234567_10.0.0.1.json hccl_8p_01234567_10.0.0.2.json

The servers stand in the file hccl_<servers>s_<ranks>p.json in the order of the arguments, and the ranks are numbered
anew over all of them: with 8 devices each the first server gets the ranks 0 to 7, the second 8 to 15. The place of a
server, counted from 0, is what the launchers take as SERVER_ID. Give the files one by one where the order matters: the
shell sorts what hccl*.json stands for by name. Within a file the order of the ranks stays.

The file appears in the current directory in one step: an earlier one of this name stays until the new one is complete.

Exit status: 0 written, 1 a file is not a usable rank table or the result cannot be written here, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path

from hccl_tools import STATUS, VERSION, cluster_table, file_content, ipv4, shown, write_table

LONGEST_NAME = 255  # characters of a server_id, an address or a host name
DEEPEST = 8  # objects and lists within each other; a rank table has 4


class TableError(Exception):
    """A file is not a rank table, or does not go with the others."""


def read_table(path: str) -> list[dict]:
    """Reads the servers of a rank table.

    Args:
        path: the file.

    Returns:
        Its servers, checked; the ids are numbers or texts of digits.

    Raises:
        TableError: it is not the rank table of at least one server, or is not complete.
    """
    table = read_json(Path(path))
    problem = table_problem(table)
    if problem:
        raise TableError(f"{path} is not a usable rank table: {problem}; write it anew with hccl_tools.py")
    return table["server_list"]


def read_json(path: Path) -> object:
    """Reads a JSON file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        TableError: it cannot be read, is no JSON, or holds what a rank table cannot: numbers that are not finite,
            objects within objects without end.
    """
    try:
        text = file_content(path)
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        content = json.loads(text, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} is not JSON: {shown(str(error))[1:-1]}; write it anew with hccl_tools.py") from error
    if is_deep(content, DEEPEST):
        raise TableError(f"{path} has more than {DEEPEST} levels within each other; write it anew with hccl_tools.py")
    return content


def finite(text: str) -> float:
    """Returns the number that a text stands for; ValueError where JSON could not write it again."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{shown(text)} is not a finite number")
    return float(text)


def is_deep(value: object, levels: int) -> bool:
    """Tells whether a JSON value has more levels than that."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(is_deep(item, levels - 1) for item in items))


def table_problem(table: object) -> str:
    """Tells what keeps the content of a file from being a rank table; the empty string if nothing does."""
    if not isinstance(table, dict):
        return "it holds no JSON object"
    for key, expected in (("version", VERSION), ("status", STATUS)):
        if table.get(key) != expected:
            return f"{key} is {shown(table.get(key))}, not {expected!r}"
    servers = table.get("server_list")
    if not isinstance(servers, list) or not servers:
        return "server_list is not a list of servers"
    if number(table.get("server_count")) != len(servers):
        return f"server_count is {shown(table.get('server_count'))}, server_list holds {len(servers)}"
    problem = next((found for server in servers if (found := server_problem(server))), "")
    if not problem:
        ranks = [number(device["rank_id"]) for server in servers for device in server["device"]]
        if len(set(ranks)) != len(ranks):
            problem = f"the rank ids {shown(ranks)} are not different from each other"
    return problem


def server_problem(server: object) -> str:
    """Tells what is wrong with a server of a rank table; the empty string if nothing is."""
    name = server.get("server_id") if isinstance(server, dict) else None
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > LONGEST_NAME:
        return "a server has no server_id" if not name else f"a server has the server_id {shown(name)}"
    devices = server.get("device")
    if not isinstance(devices, list) or not devices:
        return f"server {name} lists no device"
    for device in devices:
        if not isinstance(device, dict) or None in (number(device.get("device_id")), number(device.get("rank_id"))):
            return f"a device of server {name} has no number as device_id or rank_id: {shown(device)}"
        if not is_address(device.get("device_ip")):
            return f"device {device['device_id']} of server {name} has the device_ip {shown(device.get('device_ip'))}"
    ids = [number(device["device_id"]) for device in devices]
    if len(set(ids)) != len(ids):
        return f"server {name} lists a device twice: {shown(ids)}"
    return ""


def number(value: object) -> int | None:
    """Returns the value of an id, which may be a number or its digits; None if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        value = str(value)
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else None


def is_address(value: object) -> bool:
    """Tells whether a value is the text of an IPv4 address, and nothing around it."""
    try:
        return isinstance(value, str) and ipv4(value) == value
    except ValueError:
        return False


def check_distinct(files: list[str], tables: list[list[dict]]) -> None:
    """Checks that no server, and no address of a device, is there twice.

    Args:
        files: the names of the files.
        tables: the servers of each.

    Raises:
        TableError: one is.
    """
    owners: dict[str, str] = {}
    for file, servers in zip(files, tables):
        for server in servers:
            addresses = [f"the device_ip {device['device_ip']}" for device in server["device"]]
            for thing in [f"the server {server['server_id']}", *addresses]:
                if thing in owners:
                    raise TableError(f"{thing} is in {owners[thing]} and again in {file}: give each server once")
                owners[thing] = file


def merge(tables: list[list[dict]]) -> dict:
    """Returns the rank table of the servers of several tables, with new rank ids.

    Args:
        tables: the servers of each table, as `read_table` returns them.

    Returns:
        A table with the servers in their order. All but the rank ids stays as it was; the ids become texts.
    """
    start, merged = 0, []
    for servers in tables:
        old = sorted(number(device["rank_id"]) for server in servers for device in server["device"])
        new = {rank: str(start + place) for place, rank in enumerate(old)}
        for server in servers:
            devices = [
                {**device, "device_id": str(device["device_id"]), "rank_id": new[number(device["rank_id"])]}
                for device in server["device"]
            ]
            merged.append({**server, "device": devices})
        start += len(old)
    return cluster_table(merged)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(description="Merges rank tables to one of the whole cluster.")
    parser.add_argument(
        "files", nargs="+", type=os.path.expanduser, metavar="FILE", help="rank tables, the server with rank 0 first"
    )
    arguments = parser.parse_args(argv)
    if len(arguments.files) < 2:
        parser.error(f"got one file, {arguments.files[0]}: give the rank tables of two servers or more")
    return arguments


def main(argv: list[str] | None = None) -> int:
    files = parse_arguments(argv).files
    try:
        tables = [read_table(file) for file in files]
        check_distinct(files, tables)
        table = merge(tables)
        servers = table["server_list"]
        count = sum(len(server["device"]) for server in servers)
        path = write_table(table, f"hccl_{len(servers)}s_{count}p.json")
    except (TableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for place, server in enumerate(servers):
        ranks = ", ".join(device["rank_id"] for device in server["device"])
        print(f"SERVER_ID={place}: server {server['server_id']}, ranks {ranks}")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
