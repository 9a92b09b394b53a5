"""Data and studies from strangers: what is no data, and what is data but means to be something else."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa

from torture.promise import Mutation, Promise, Tally
from torture.promises._forks import Commands, Ended
from torture.promises._hostile_models import GIB, make_sound


@dataclass(frozen=True)
class Saved:
    """A folder as the package datasets saves it, and what it says of itself.

    Attributes:
        table: what is in it.
        features: what it says its columns are.
        filename: of the Arrow file, as it says.
        splits: their names; ``None`` for a folder without splits.
        packed: the codec of its buffers.
    """

    table: pa.Table
    features: dict[str, Any] = field(default_factory=dict)
    filename: str = "data.arrow"
    splits: list[str] | None = None
    packed: str | None = None

    def write(self, folder: Path) -> None:
        folder.mkdir()
        if self.splits is not None:
            (folder / "dataset_dict.json").write_text(json.dumps({"splits": self.splits}))
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": self.filename}]}))
        (folder / "dataset_info.json").write_text(json.dumps({"features": self.features}))
        options = pa.ipc.IpcWriteOptions(compression=self.packed)
        with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, self.table.schema, options=options) as stream:
            stream.write_table(self.table)


MEMORY, CPU_S, WALL_S = 2 * GIB, 60, 600

ESCAPES = "\x1b]0;t\x07\x1b[2J\x9b31m\u202eabc\x1b]8;;http://evil.example\x07"
MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>[a](http://evil.example) | `b`"
FORMULA = '=HYPERLINK("http://evil.example")'

_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + step)}: &{chr(98 + step)} [{', '.join(['*' + chr(97 + step)] * 9)}]\n" for step in range(12)
)
_MERGES = "a: &a {k: 1}\n" + "".join(
    f"{chr(98 + step)}: &{chr(98 + step)}\n  <<: [{', '.join(['*' + chr(97 + step)] * 9)}]\n" for step in range(12)
)
STUDIES: dict[str, bytes | int] = {
    "a billion laughs": _LAUGHS.encode(),
    "a billion merges": _MERGES.encode(),
    "an alias in itself": b"models: &a [*a]\nattacks: *a\n",
    "a mapping in itself": b"models: &a {b: *a}\n",
    "a program to run": b"models: [a]\nattacks: !!python/object/apply:os.system ['touch mark']\n",
    "an object": b"models: !!python/object:os.PathLike {}\n",
    "a module": b"models: !!python/module:os\n",
    "an unknown tag": b"models: !evil [a]\n",
    "a tag that does not fit": b"models: !!int x\n",
    "a date that is none": b"models: 2026-13-45\n",
    "a key that is a list": b"? [a, b]\n: c\n",
    "nested deeply": b"[" * 100_000,
    "mappings nested deeply": b"{a: " * 50_000,
    "keys nested deeply": b"? " * 50_000,
    "a key twice": b"models: [a]\nmodels: [b]\nattacks: [prefilling]\n",
    "not UTF-8": b"models: [\xff\xfe]\n",
    "a null byte": b"models: [a\0b]\n",
    "half a surrogate pair": b'models: ["\\ud800"]\nattacks: [prefilling]\n',
    "a number of 5000 digits": b"models: [a]\nattacks: [prefilling]\nseeds: " + b"9" * 5000 + b"\n",
    "a number in base 60": b"models: [a]\nattacks: [prefilling]\nseeds: " + b"1" + b":59" * 20_000 + b"\n",
    "not a number": b"models: [a]\nattacks: [prefilling]\nthreshold: {tau: .nan}\n",
    "infinity": b"models: [a]\nattacks: [prefilling]\nbudget: {flops: .inf}\n",
    "a billion seeds": b"models: [a]\nattacks: [prefilling]\nseeds: 1000000000\n",
    "a name of escapes": b'models: [a]\nattacks: ["\\e]0;t\\a\\e[2J"]\n',
    "a key of escapes": b'models: [a]\nattacks: [prefilling]\n"\\e[31m\\u202e": 1\n',
    "a hundred thousand attacks": b"models: [a]\nattacks: [" + b"x," * 100_000 + b"]\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "nothing": b"",
    "a list": b"- a\n",
    "a gigabyte": GIB,
    "a long line": b"a: " + b"x" * 1_000_000,
}
"""Study files by name; a number makes a file of so many zeros that takes no place."""

_LINE = '{"prompt": "a", "role": "hazard", '
DATA: dict[str, bytes | int] = {
    "no JSON": b"{",
    "nested deeply": b"[" * 100_000,
    "objects nested deeply": b'{"a":' * 100_000,
    "a value nested deeply": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not UTF-8": b'{"prompt": "\xff"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "a null byte": b'{"prompt": "a\0"}',
    "half a surrogate pair": b'{"prompt": "\\ud800", "role": "hazard"}',
    "NaN": (_LINE + '"answer": NaN}').encode(),
    "infinity": (_LINE + '"answer": -Infinity}').encode(),
    "a number of 5000 digits": (_LINE + '"answer": ' + "9" * 5000 + "}").encode(),
    "a name twice": b'{"prompt": "a", "prompt": "b", "role": "hazard"}',
    "a list": b"[]",
    "a number": b"3",
    "an empty prompt": b'{"prompt": " ", "role": "hazard"}',
    "a prompt that is a list": b'{"prompt": [], "role": "hazard"}',
    "an unknown role": ('{"prompt": "a", "role": "' + "x" * 100_000 + '"}').encode(),
    "a role of escapes": json.dumps({"prompt": "a", "role": ESCAPES}).encode(),
    "a column of escapes": json.dumps({ESCAPES: "a"}).encode(),
    "a line of two megabytes": b'{"prompt": "' + b"a" * (2 << 20) + b'"}',
    "four gigabytes": 4 * GIB,
    "nothing": b"",
    "a hundred thousand columns": json.dumps({str(number): number for number in range(100_000)}).encode(),
}
"""Data files by name."""

_PICTURE = pa.array([{"bytes": None, "path": "http://evil.example/x.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_TEXTS = pa.table({"prompt": ["a"], "role": ["hazard"]})
SAVED: dict[str, Saved] = {
    "pictures of a server": Saved(pa.table({"prompt": _PICTURE, "role": ["hazard"]}), features={"prompt": {"_type": "Image"}}),
    "pictures that are called texts": Saved(pa.table({"prompt": _PICTURE, "role": ["hazard"]})),
    "texts that are called sounds": Saved(pa.table({"prompt": ["/etc/hostname"]}), features={"prompt": {"_type": "Audio"}}),
    "a file above": Saved(_TEXTS, filename="../data.jsonl"),
    "a file anywhere": Saved(_TEXTS, filename="/etc/hostname"),
    "a split above": Saved(_TEXTS, splits=["../sound"]),
    "packed": Saved(pa.table({"prompt": ["a" * (1 << 26)], "role": ["hazard"]}), packed="zstd"),
    "one text a million times": Saved(pa.table({"prompt": pa.array(["a" * 1000] * 20).dictionary_encode()})),
    "two billion nothings": Saved(
        _TEXTS.append_column("accept", pa.ListArray.from_arrays(pa.array([0, 2_000_000_000], pa.int32()), pa.nulls(2_000_000_000)))
    ),
}
"""Folders as the package datasets saves them, by name."""

BOOKS: dict[str, bytes | int] = {
    "a billion laughs": _LAUGHS.encode(),
    "a list for accelerators": b"accelerators: [a]\n",
    "a price below zero": b"accelerators: {H100-SXM: {usd_per_hour: -1}}\n",
    "a price that is no number": b"accelerators: {H100-SXM: {usd_per_hour: .nan}}\n",
    "a price of 5000 digits": b"accelerators: {H100-SXM: {usd_per_hour: " + b"9" * 5000 + b"}}\n",
    "a date that is none": b"date: 2026-13-45\n",
    "a gigabyte": GIB,
}
"""Price books by name."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Hand over files that are to be refused, and a study whose every name means to be something else."""
    sound = make_sound(folder)
    with Commands(memory=MEMORY, cpu_s=CPU_S, wall_s=WALL_S) as commands:
        for kind, files in (
            ("study", STUDIES),
            ("data", {**DATA, **{f"saved: {name}": made for name, made in SAVED.items()}}),
            ("price book", BOOKS),
        ):
            for number, (name, content) in enumerate(files.items()):
                place = folder / f"{kind} {number}"
                place.mkdir()
                ended = commands.temper(*_command(kind, _written(place, content), sound, place), folder=place)
                problem = ended.unlike_a_refusal() or _let_through(ended, place)
                tally.count(not problem, f"{kind}: {name}: {problem}")
        _try_names(commands, sound, folder, tally)


def _written(place: Path, content: bytes | int | Saved) -> Path:
    path = place / "hazard.file"
    if isinstance(content, Saved):
        content.write(path)
        return path
    with path.open("wb") as file:
        if isinstance(content, int):
            file.truncate(content)
        else:
            file.write(content)
    return path


def _command(kind: str, path: Path, sound: Path, place: Path) -> list[str]:
    if kind == "study":
        return ["validate", str(path)]
    study = {"models": [{"reference": str(sound), "device": "cpu"}], "attacks": ["prefilling"], "seeds": 1}
    more: dict[str, Any] = {"data": {"reference": str(path)}} if kind == "data" else {"price_book": str(path)}
    (place / "study.yaml").write_text(json.dumps({"data": {"reference": str(sound.parent / "data.jsonl")}, **study, **more}))
    return ["validate", str(place / "study.yaml")]


def _let_through(ended: Ended, place: Path) -> str:
    if (place / "mark").exists():
        return "code in it was run"
    return _raw(ended.stdout + ended.stderr)


def _raw(text: str) -> str:
    found = [letter for letter in text if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160 or letter in "\u202e\u2066"]
    return f"the terminal is sent {found[0]!r}" if found else ""


def _try_names(commands: Commands, sound: Path, folder: Path, tally: Tally) -> None:
    """A study whose names, labels, prompts and answers hold escapes, markup and formulas: they are shown as text, everywhere."""
    from support.toy_study import rows

    place = folder / "names"
    place.mkdir()
    hostile = ESCAPES + MARKUP
    lines = [{**row, "prompt": f"{row['prompt']} {hostile}", "domain": FORMULA} for row in rows()]
    (place / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels = [(FORMULA + MARKUP)[:60], ("@" + ESCAPES + "\r\nx")[:60]]
    model = place / f"model {ESCAPES.replace('/', '')}<b>"
    model.symlink_to(sound)
    study = {
        "name": hostile,
        "models": [{"reference": str(model), "unguarded": str(sound.parent / "other"), "device": "cpu"}],
        "attacks": [{"name": "prefilling", "label": label} for label in labels],
        "seeds": 1,
        "data": {"reference": str(place / "data.jsonl")},
        "probes": {"prompts": 2},
    }
    (place / "study.yaml").write_text(json.dumps(study))
    shown = (
        *(["validate", "study.yaml"], ["plan", "study.yaml"], ["run", "study.yaml", "--out", "run", "--workers", "0"], ["report", "run"]),
        *(["report", "run", "--json"], ["card", "run"], ["card", "run", "--json"], ["export", "run", "--out", "csv", "--format", "csv"]),
    )
    for arguments in shown:
        ended = commands.temper(*arguments, folder=place)
        problem = f"it ended with {ended.code}: {ended.stderr[-300:]}" if ended.code else _raw(ended.stdout + ended.stderr)
        tally.count(not problem, f"names, temper {' '.join(arguments)}: {problem}")
    pages = sorted((place / "run").glob("*.html"))
    tally.count(bool(pages) and not any(_elements(page) for page in pages), f"names in the page: {[_elements(page) for page in pages]}")
    for path in sorted((place / "csv").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row if not _is_number(cell)]
        bad = [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
        tally.count(not bad, f"{path.name}: a cell that a spreadsheet executes: {bad[:1]}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class _Elements(HTMLParser):
    """What of a page a browser would run, or load."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag in ("img", "iframe", "object", "embed", "b") or any(
            name.startswith("on") or ("evil.example" in (value or "") and name in ("src", "href")) for name, value in attributes
        ):
            self.bad.append(f"<{tag} {attributes}>"[:100])


def _elements(page: Path) -> list[str]:
    found = _Elements()
    found.feed(page.read_text(encoding="utf-8"))
    return found.bad + [f"{found.scripts} scripts"] * (found.scripts > 1)


PROMISE = Promise(
    name="hostile-data",
    group="Nothing let in",
    sentence="Data, studies and price books that are bombs or programs are refused in one line; names stay text, whatever they hold",
    attempt=attempt,
    mutations=(
        Mutation("reading.py", "    if size > YAML_NODES:", "    if size < 0:", "aliases of YAML multiply what they stand for"),
        Mutation(
            "data/importers.py",
            "line := stream.readline(LONGEST_LINE + 1)",
            "line := stream.readline()",
            "a line of data is read whole, however long",
        ),
        Mutation(
            "data/saved.py",
            "        if _is_packed(message.metadata.to_pybytes()):",
            "        if False:",
            "packed columns of a saved dataset are unpacked to any size",
        ),
        Mutation("errors.py", "        line = clean(", "        line = str(", "an error sends terminal escapes to the terminal"),
        Mutation(
            "report/console.py",
            "            unseen = not segment.control and UNSEEN.search(segment.text)",
            "            unseen = False",
            "progress and tables send terminal escapes to the terminal",
        ),
        Mutation(
            "report/export.py",
            "        csv.write_csv(_tamed(table), sink)",
            "        csv.write_csv(table, sink)",
            "exported texts are formulas to a spreadsheet",
        ),
    ),
)
