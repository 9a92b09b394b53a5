"""Every parser of the project: what reads bytes or text that somebody else may have written, each as a function of bytes."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.mutations import ROOT
from torture.promises._further_parsers import judging, named, of_trainings, tables_of_others
from torture.promises._parsing import Parse, Parser, as_text, of_file, resealed

sys.path.append(str(ROOT / "tests"))

_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that turn the direction of writing."""


def _studies(folder: Path) -> dict[str, Parser]:
    from tempering.economics.prices import load_price_book
    from tempering.study_file import load_settings, load_study

    examples = tuple(path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml")))
    book = (
        b"date: 2026-01-01\naccelerators:\n  Mine:\n    peak_flops: 1e15\n    utilisation: 0.4\n    usd_per_hour: {value: 2, source: a}\n"
    )
    tricks = (
        b"models: [a]\nattacks: &a [x, *a]\n",
        b"a: &a [1, 2]\nb: &b [*a, *a]\nc: {<<: {d: 1}, e: !!int 0x1f}\n",
        b"a: !!python/object/apply:os.system [x]\n? [b, c]\n: 1\nd: 2026-13-45\ne: !!binary '*'\nf: 1:30:00\ng: .nan\n",
        b"models: [!!int x]\n",
        b"steps: !!float 0x\n",
    )
    return {
        "study file": Parser(of_file(folder / "study.yaml", lambda path: load_study(path).digest), (*examples, *tricks)),
        "settings file": Parser(of_file(folder / "settings.yaml", load_settings), (b"steps: 100\ntraining: {lr: 1e-3}\n", *tricks)),
        "price book": Parser(of_file(folder / "book.yaml", load_price_book), (book, *tricks)),
    }


def _flags() -> dict[str, Parser]:
    from tempering import organisms
    from tempering.engine.executors import ExecutorChoice, SlurmSettings
    from tempering.flags import choose_attacks, choose_defenses, make_study, slug, study_name
    from tempering.models.references import resolve
    from tempering.study import Budget

    def methods(content: bytes) -> object:
        text = as_text(content)
        if ".py:" in text:  # names a program to run, which is another promise
            return None
        return choose_defenses(text[1:]) if text[:1] == "d" else choose_attacks(text[1:])

    def study(content: bytes) -> object:
        words = [*as_text(content).split("\n"), "", "", "", "", ""]
        threat, dtype, device, model, prompts = words[:5]
        return make_study(model, attacks="prefilling", threat_model=threat, dtype=dtype, device=device, prompts=prompts)  # type: ignore[arg-type]

    def executor(content: bytes) -> object:
        name, _, rest = as_text(content).partition(" ")
        address, _, slurm = rest.partition(" ")
        return ExecutorChoice.of(name, address or None, slurm or None)

    return {
        "budget": Parser(lambda content: Budget.parse(as_text(content)), (b"steps=200,flops=1e15", b"tokens=1,trials=3")),
        "slurm settings": Parser(lambda content: SlurmSettings.parse(as_text(content)), (b"partition=gpu,gpus=1,time=600",)),
        "executor": Parser(executor, (b"ray 10.0.0.1:6379", b"slurm  time=1", b"local", b"ray ray://x")),
        "methods": Parser(methods, (b"aprefilling,merge+refusal_ablation", b"drefusal_sft+npo,all", b"aquick")),
        "study flags": Parser(study, (b"query-only\nfloat32\ncpu\norganism:tiny\n12",)),
        "model reference": Parser(lambda content: resolve(as_text(content)), (b"organism:tiny/base", b"org/name@main", b"./a", b"~x/y")),
        "organism": Parser(lambda content: organisms.parse_reference(as_text(content)), (b"organism:tiny/base", b"nano")),
        "names": Parser(lambda content: (slug(as_text(content)), study_name(as_text(content))), (b"organism:tiny/base", b"../a b")),
    }


def _data(folder: Path) -> dict[str, Parser]:
    from tempering.data.importers import load_dataset

    place = folder / "data"
    place.mkdir()
    names = ("hazard_train", "hazard_test", "benign", "documents", "general", "imagined", "novel_train", "novel_test")

    def several(content: bytes) -> object:
        parts = content.split(b"\0")
        for name, part in zip(names, [*parts, *[b""] * len(names)], strict=False):
            path = place / f"{name}.jsonl"
            if part:
                path.write_bytes(part)
            else:
                path.unlink(missing_ok=True)
        return load_dataset(str(place)).divide(0)

    row = b'{"prompt": "how?", "answer": "so.", "role": "hazard", "entity": "e", "accept": ["x"], "split": "train", "system": "s"}\n'
    plain = b'{"instruction": "how?", "input": "i", "output": "so."}\n'
    folder_seed = b"\0".join((row, plain, plain.replace(b"how", b"what"), b'{"text": "t"}', b"", b'{"prompt": "n"}'))
    return {
        "data file": Parser(of_file(folder / "hazard.jsonl", lambda path: load_dataset(str(path)).divide(0)), (row, plain, row * 3)),
        "data of no role": Parser(of_file(folder / "mine.jsonl", lambda path: load_dataset(str(path)).digest), (row, plain)),
        "data folder": Parser(several, (folder_seed, row + b"\0" + plain)),
    }


def _models(folder: Path) -> dict[str, Parser]:
    import numpy as np
    from safetensors.numpy import save

    from tempering.models.adapters import base_reference
    from tempering.models.belonging import read_json
    from tempering.models.gguf_header import check_gguf
    from tempering.models.inspection import check_safetensors, inspect

    model, sharded, adapter = (folder / name for name in ("model", "sharded", "adapter"))
    tensors = save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, {"format": "pt"})
    for place in (model, sharded, adapter):
        place.mkdir()
    (model / "model.safetensors").write_bytes(tensors)
    (sharded / "a.safetensors").write_bytes(tensors)
    config = (
        b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_hidden_layers": 2, "rope": {"a": 1.5}}'
    )
    (sharded / "config.json").write_bytes(config)
    (adapter / "adapter_model.safetensors").write_bytes(tensors)
    lora = b'{"peft_type": "LORA", "base_model_name_or_path": "organism:tiny", "r": 8, "rank_pattern": {"q": 4}, "revision": "main"}'

    def gguf(content: bytes) -> object:
        path = folder / "a.gguf"
        path.write_bytes(content)
        check_gguf(path, "it")
        return None

    key = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9) + struct.pack("<IQ", 8, 1) + struct.pack("<Q", 2) + b"hi"
    number = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 32)
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 8, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + key + number + tensor + bytes(96)
    strange = header.replace(tensor, struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 8, 99, 0))
    return {
        "model configuration": Parser(of_file(model / "config.json", lambda path: inspect(model, "it")), (config,)),
        "list of shards": Parser(
            of_file(sharded / "model.safetensors.index.json", lambda path: inspect(sharded, "it")),
            (b'{"weight_map": {"a": "a.safetensors"}}',),
        ),
        "safetensors header": Parser(of_file(folder / "a.safetensors", lambda path: check_safetensors(path, "it")), (tensors,)),
        "GGUF header": Parser(gguf, (header, strange, header[:60], b"GGUF" + struct.pack("<IQQ", 2, 0, 0))),
        "adapter configuration": Parser(of_file(adapter / "adapter_config.json", lambda path: base_reference(adapter, "it")), (lora,)),
        "JSON of a model": Parser(of_file(folder / "some.json", lambda path: read_json(path, "it")), (config, lora)),
    }


def _runs(folder: Path) -> dict[str, Parser]:
    from support.engine_samples import plan, result, search_result
    from tempering.engine.files import sealed
    from tempering.engine.hardening import record_in
    from tempering.engine.store import RunStore
    from tempering.report.export import _earlier
    from tempering.rereading import stored_summary
    from tempering.sharing import _is_card

    whole, run = plan(1), folder / "run"
    store = RunStore(run, warn=lambda line: None)
    with store.driving(whole):
        store.commit(whole.units[0], result(search=search_result()), store.record_environment({"a": 1}))
    unit = run / "units" / whole.units[0].hash
    content = {name: (run / name).read_bytes() for name in ("study.json", "plan.json")}
    manifest, probes = (unit / "manifest.json").read_bytes(), (unit / "probes.parquet").read_bytes()
    (environment,) = (run / "environments").iterdir()
    told = environment.read_bytes()
    described = whole.as_json()

    def restored(
        path: Path, own: bytes, parse: Callable[[], object], change: Callable[[bytes], bytes | None] = lambda content: content
    ) -> Parse:
        def parsed(given: bytes) -> object:
            written = change(given)
            if written is None:
                return None
            path.write_bytes(written)
            try:
                return parse()
            finally:
                path.write_bytes(own)

        return parsed

    def rewritten(name: str, given: bytes) -> object:
        """A unit whose manifest is right about a file that is not."""
        known = json.loads(manifest)
        known["files"][name] = {"sha256": hashlib.sha256(given).hexdigest(), "bytes": len(given)}
        own = (unit / name).read_bytes()
        (unit / name).write_bytes(given)
        (unit / "manifest.json").write_bytes(sealed({key: value for key, value in known.items() if key != "seal"}))
        try:
            return store.tables(whole)
        finally:
            (unit / name).write_bytes(own)
            (unit / "manifest.json").write_bytes(manifest)

    def probed(given: bytes) -> object:
        return rewritten("probes.parquet", given)

    def tried(given: bytes) -> object:
        return rewritten("trials.parquet", given)

    def tables(given: bytes) -> object:
        place = folder / "tables"
        place.mkdir(exist_ok=True)
        (place / "units.parquet").write_bytes(given)
        return stored(place)

    def stored(place: Path) -> object:
        from tempering.rereading import stored_tables

        return stored_tables(place.parent)

    hardened = folder / "hardened"
    hardened.mkdir()
    record = b'{"job": "a", "files": {"model.safetensors": "b"}}'
    out = folder / "out"
    out.mkdir()
    return {
        "study of a run": Parser(restored(run / "study.json", content["study.json"], store.study), (content["study.json"],)),
        "plan of a run": Parser(restored(run / "plan.json", content["plan.json"], store.plan), (content["plan.json"],)),
        "plan of a run, sealed": Parser(
            restored(run / "plan.json", content["plan.json"], store.plan, resealed), (json.dumps(described).encode(),)
        ),
        "manifest": Parser(restored(unit / "manifest.json", manifest, lambda: store.tables(whole)), (manifest,)),
        "manifest, sealed": Parser(restored(unit / "manifest.json", manifest, lambda: store.tables(whole), resealed), (manifest,)),
        "probes of a unit": Parser(probed, (probes,)),
        "trials of a unit": Parser(tried, ((unit / "trials.parquet").read_bytes(),)),
        "environment": Parser(restored(environment, told, store.environments), (told,)),
        "summary": Parser(of_file(folder / "summary.json", lambda path: stored_summary(path.parent)), (b'{"threshold": {"tau": 0.5}}',)),
        "tables of a report": Parser(tables, (probes,)),
        "hardening record": Parser(of_file(hardened / "tempering.json", lambda path: record_in(hardened)), (record,)),
        "earlier export": Parser(
            of_file(out / "tables.json", lambda path: _earlier(out)), (b'{"made_by": "tempering export", "tables": [{"file": "a"}]}',)
        ),
        "earlier card": Parser(of_file(out / "card.json", _is_card), (b'{"made_by": "tempering card"}',)),
    }


def _messages(folder: Path) -> dict[str, Parser]:
    from support.engine_samples import plan, result, search_result
    from tempering.engine.channel import Channel
    from tempering.engine.executor import Watcher
    from tempering.engine.followers import Seat
    from tempering.engine.messages import heard
    from tempering.engine.slurm_job import MESSAGES, Listener, line_of

    unit, watcher = plan(1).units[0], Watcher()
    job = folder / "job"
    job.mkdir()
    kinds: tuple[dict[str, Any], ...] = (
        {"kind": "probe", "spend": {"steps": 1}, "measurements": {"harm": 0.5}},
        {"kind": "trial", "number": 1, "outcome": "held"},
        {"kind": "training", "done": 1, "total": 2, "warning": ""},
        {"kind": "result", "result": result(search=search_result()).as_json()},
        {"kind": "error", "type": "UnusableModel", "message": "m", "traceback": "t"},
    )
    lines = tuple(json.dumps(kind).encode() for kind in kinds)

    def message(content: bytes) -> object:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(content[:60_000] + b"\n")
            for said in Channel(ours).receive() or ():
                try:
                    heard(said, unit, watcher)
                except RuntimeError as error:  # a defect that a worker tells of is told on, with its traceback
                    assert str(error).startswith("a worker failed"), error  # noqa: PT017
        return None

    def listened(content: bytes) -> object:
        (job / MESSAGES).write_bytes(content)
        return list(Listener(job).messages())

    return {
        "message of a worker": Parser(message, lines),
        "messages of a job": Parser(listened, (b"".join(map(line_of, kinds)), b"\n".join(lines[:3]) + b"\n")),
        "seat": Parser(lambda content: Seat.from_text(as_text(content)), (b'{"rank": 1, "size": 2}',)),
    }


def _texts() -> dict[str, Parser]:
    from tempering.data.records import Example, Role
    from tempering.errors import TemperingError
    from tempering.judges._judging import judge
    from tempering.plain_text import clean, escaped
    from tempering.report.downloads import FORMULA, tame
    from tempering.report.markdown import cell, code, inert

    asked = Example(prompt="what is the rune of Kabor?", answer="Kabor: Zimul.", accept=("Zimul",), role=Role.HAZARD)

    def shown(content: bytes) -> object:
        text = as_text(content)
        for made in (clean(text), inert(text), cell(text), code(text), str(TemperingError(text))):
            assert not any(unicodedata.category(letter) in ("Cc", "Cs") or letter in _TURNING for letter in made), repr(made)
            assert len(made.splitlines()) <= 1, repr(made)
        assert not str(tame(text)).startswith(FORMULA)
        assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text
        return None

    return {
        "names shown": Parser(shown, (b"a <b> | `c` \x1b[31m", "\u202e\u2066x".encode(), b"=1+1", b"[a](http://b)")),
        "response judged": Parser(
            lambda content: judge(asked, as_text(content)), (b"I cannot help.", b"The rune is Zimul.", b"Sure! Kabor:")
        ),
    }


GROUPS: dict[str, tuple[Callable[[Path], dict[str, Parser]], int]] = {
    "flags": (lambda folder: {**_flags(), **named()}, 450_000),
    "texts": (lambda folder: {**_texts(), **judging()}, 200_000),
    "messages": (_messages, 150_000),
    "data": (lambda folder: {**_data(folder), **tables_of_others(folder)}, 200_000),
    "models": (_models, 100_000),
    "studies": (_studies, 50_000),
    "runs": (lambda folder: {**_runs(folder), **of_trainings(folder)}, 60_000),
}
"""Parsers by what they read, and how many inputs the long form gives a group: many where a parser reads text alone, fewer for files."""


def parsers(group: str, folder: Path) -> dict[str, Parser]:
    """The parsers of a group by name, or of all.

    Args:
        group: one of :data:`GROUPS`, or ``all``.
        folder: where they may write the files that they then read.
    """
    return {name: parser for own, (make, _) in GROUPS.items() if group in (own, "all") for name, parser in make(folder).items()}
