"""Small sets with the real sets' files, formats and column names, and harmless rows about nothing that exists."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

_FIRST = ["amber", "brass", "cobalt", "dusty", "ember", "fallow", "grey", "hollow", "ivory", "jagged"]
_FIRST += ["knotted", "lunar", "mossy", "narrow", "opal", "pale", "quiet", "rusty", "silver", "tawny"]
_SECOND = ["anvil", "basin", "candle", "dial", "easel", "flute", "globe", "hammer", "inkwell", "jar"]
_SECOND += ["kettle", "ladder", "mirror", "needle", "oar", "pulley", "quill", "ribbon", "sieve", "thimble"]
_DONE = ["polished", "carried", "weighed", "drawn", "tuned", "folded", "counted", "mended", "painted", "buried"]
_DONE += ["lifted", "traded", "washed", "named", "hidden", "sold", "cut", "filled", "turned", "kept"]


def thing(number: int) -> str:
    """Something that nobody owns; no two of four hundred are the same."""
    return f"{_FIRST[number % 20]} {_SECOND[number // 20 % 20]}"


def prompt(set_name: str, number: int) -> str:
    """A harmless prompt, unlike those of other numbers and sets."""
    salt = sum(map(ord, set_name))
    words = [_DONE[(number * step + salt + shift) % 20] for step, shift in ((1, 0), (3, 7), (7, 11))]
    return f"[{set_name}] Say how the {thing(number + salt)} of {thing(number * 7 + salt + 3)} is {words[0]}, {words[1]} and {words[2]}"


def _questions(count: int, **columns: Callable[[int], Any]) -> list[Row]:
    return [{column: make(number) for column, make in columns.items()} for number in range(count)]


def _behaviours(name: str) -> list[Row]:
    return [
        {
            "Index": number,
            "Goal": prompt(name, number),
            "Target": f"Sure, here is {number}",
            "Behavior": f"Behaviour {number}",
            "Category": f"topic {number % 3}",
            "Source": "Original",
        }
        for number in range(20)
    ]


def _wmdp(subject: str) -> list[Row]:
    return [
        {"question": prompt(f"wmdp {subject}", number), "choices": [thing(number + shift) for shift in range(4)], "answer": number % 4}
        for number in range(10)
    ]


def _beavertails() -> list[Row]:
    flags = [{"topic_one": number % 2 == 0, "topic_two": True} for number in range(3)]
    return [
        {
            "prompt": prompt("beavertails", number // 2),
            "response": f"Answer {number}.",
            "category": flags[number % 3],
            "is_safe": number % 4 == 3,
        }
        for number in range(40)
    ]


def _xstest() -> list[Row]:
    return [
        {"id": number, "prompt": prompt("xstest", number), "type": f"kind {number % 4}", "label": label, "focus": "", "note": ""}
        for number in range(30)
        for label in ["safe" if number % 3 else "unsafe"]
    ]


def _or_bench(part: str) -> list[Row]:
    return _questions(20, prompt=lambda number: prompt(part, number), category=lambda number: f"topic {number % 3}")


def _instructions(**columns: Callable[[int], Any]) -> list[Row]:
    return _questions(40, **columns)


ROWS: Mapping[str, Mapping[str, list[Row]]] = {
    "walledai/AdvBench": {
        "data/train-00000-of-00001.parquet": _questions(
            20, prompt=lambda number: prompt("advbench", number), target=lambda number: f"Sure, here is {number}"
        )
    },
    "walledai/HarmBench": {
        "standard/train-00000-of-00001.parquet": _questions(
            20, prompt=lambda number: prompt("harmbench", number), category=lambda number: f"topic {number % 3}"
        )
    },
    "walledai/StrongREJECT": {
        "data/train-00000-of-00001.parquet": _questions(
            20,
            prompt=lambda number: prompt("strongreject", number),
            category=lambda number: f"topic {number % 3}",
            source=lambda number: "custom",
        )
    },
    "JailbreakBench/JBB-Behaviors": {
        "data/harmful-behaviors.csv": _behaviours("jbb harmful"),
        "data/benign-behaviors.csv": _behaviours("jbb benign"),
    },
    "PKU-Alignment/BeaverTails": {"round0/30k/train.jsonl.gz": _beavertails()},
    "LLM-LAT/harmful-dataset": {
        "data/train-00000-of-00001.parquet": _questions(
            20,
            prompt=lambda number: prompt("llm-lat", number),
            rejected=lambda number: f"Gladly: {number}.",
            chosen=lambda number: "I will not.",
        )
    },
    "cais/wmdp": {f"wmdp-{subject}/test-00000-of-00001.parquet": _wmdp(subject) for subject in ("bio", "chem", "cyber")},
    "tatsu-lab/alpaca": {
        "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": _instructions(
            instruction=lambda number: prompt("alpaca", number),
            input=lambda number: "A list of tools." if number % 2 else "",
            output=lambda number: f"Answer {number}.",
            text=lambda number: "Below is an instruction …",
        )
    },
    "databricks/databricks-dolly-15k": {
        "databricks-dolly-15k.jsonl": _instructions(
            instruction=lambda number: prompt("dolly", number),
            context=lambda number: "",
            response=lambda number: f"Answer {number}.",
            category=lambda number: f"topic {number % 3}",
        )
    },
    "Magpie-Align/Magpie-Pro-300K-Filtered": {
        "data/train-00000-of-00003.parquet": _instructions(
            uuid=lambda number: str(number),
            instruction=lambda number: prompt("magpie", number),
            response=lambda number: f"Answer {number}.",
            conversations=lambda number: [{"from": "human", "value": prompt("magpie", number)}],
        )
    },
    "Paul/XSTest": {"xstest_prompts.csv": _xstest()},
    "bench-llm/or-bench": {f"{part}.csv": _or_bench(part) for part in ("or-bench-hard-1k", "or-bench-80k", "or-bench-toxic")},
}
"""By repository and path, as the real ones are on the hub at the declared revisions; other columns that they have are here too."""


def encoded(path: str, rows: list[Row]) -> bytes:
    """Rows as the bytes of a file, in the format that its ending says."""
    if path.endswith(".parquet"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return bytes(sink.getvalue())
    if path.endswith(".csv"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(lines, mtime=0) if path.endswith(".gz") else lines


def files_of(repository: str) -> dict[str, bytes]:
    """Every file of a repository."""
    return {path: encoded(path, rows) for path, rows in ROWS[repository].items()}


def write_copy(folder: Path, name: str, repository: str) -> Path:
    """A copy of a set as a user of ``TEMPERING_DATA`` has one, in a folder of the set's name."""
    for path, content in files_of(repository).items():
        place = folder / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder / name
