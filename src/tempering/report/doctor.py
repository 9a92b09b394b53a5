"""What ``temper doctor`` shows in a terminal: tables of :func:`tempering.diagnosis.diagnose`'s document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from tempering.reading import size_in_words


def machine_table(document: Mapping[str, Any]) -> Table:
    """The machine, its devices, the disk and the hub, one fact a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    machine, disk = document["machine"], document["disk"]
    rows = [
        (
            "tempering",
            f"{machine['tempering']}, torch {machine['torch']}, transformers {machine['transformers']}, Python {machine['python']}",
        ),
        ("machine", f"{machine['system']} {machine['machine']}, {machine['cores']} cores, {machine['memory_gib']} GiB"),
    ]
    for device in document["devices"]:
        speed = ", ".join(f"{dtype} {value / 1e12:.2g} TFLOP/s" for dtype, value in device["speed"].items())
        kind = "bfloat16 in hardware" if device["bfloat16"] else "no bfloat16 in hardware"
        rows.append((device["device"], f"{device['name']}, {size_in_words(device['free_bytes'])} free; {kind}; {speed}"))
    rows.append(
        ("disk", f"{size_in_words(disk['runs_free_bytes'])} free here, {size_in_words(disk['hub_cache_free_bytes'])} for downloads")
    )
    rows.append(("hub", hub_words(document["hub"])))
    for title, words in rows:
        table.add_row(title, Text(words))
    return table


def hub_words(hub: Mapping[str, Any]) -> str:
    """What is known of the hub, in words."""
    if hub["offline"]:
        return "turned off by HF_HUB_OFFLINE"
    token = "logged in" if hub["token"] else "nobody is logged in"
    if hub["reachable"] is None:
        return f"not asked (--online asks it); {token}"
    if not hub["reachable"]:
        return f"cannot be reached: {hub['problem']}"
    return f"reachable; {'logged in' if hub['known'] else 'the token is not accepted' if hub['token'] else token}"


def sizes_table(document: Mapping[str, Any]) -> Table:
    """What models of usual sizes take, way by way."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Model")
    for title in ("Weight surgery", "LoRA", "Full fine-tuning"):
        table.add_column(title, justify="right")
    for row in document["sizes"]:
        table.add_row(Text(row["size"]), *(_need(row[way]) for way in ("surgery", "lora", "full")))
    return table


def _need(need: Mapping[str, Any]) -> Text:
    text = f"{need['bytes'] / 2**30:.1f} GiB {'fits' if need['fits'] else '  no'}"
    return Text(text, style="" if need["fits"] else "dim")


def extras_table(document: Mapping[str, Any]) -> Table:
    """The extras, and how to install those that are not there."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Extra")
    table.add_column("")
    for row in document["extras"]:
        table.add_row(Text(row["name"]), Text("installed" if row["installed"] else row["install"]))
    return table
