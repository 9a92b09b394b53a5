"""Parsers of what comes from further off: tables of other people, answers of judges, texts that name sets and judges, trainings.

Saved datasets are read by Arrow, which maps their rows into memory and trusts them; what is tried is what stands beside the rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from torture.promises._parsing import Parse, Parser, as_json, as_text, of_file, resealed

COLUMNS = ("prompt", "category")


def named() -> dict[str, Parser]:
    """What ``--judge`` and ``--data`` take; a path of a program to run is another promise, and nothing is fetched."""
    from tempering.data.members import members, nearest
    from tempering.flags import choose_judges

    def judge(content: bytes) -> object:
        text = as_text(content)
        return None if ".py:" in text else choose_judges(text)

    def data(content: bytes) -> object:
        text = as_text(content)
        return members(text), nearest(text)

    judges = (b"text", b"wildguard+text:label=own", b"openai:server=http://127.0.0.1:1/v1,model=m,key=KEY,timeout=1e3,at_once=2")
    return {
        "judges named": Parser(judge, (*judges, b"strongreject-rubric:threshold=0.5,max_tokens=9,model=./a+b")),
        "data named": Parser(data, (b"strongreject+dolly+./mine.jsonl", b"strongreject@main", b"organism:tiny", b"a+a", b"~x/y+b")),
    }


def judging() -> dict[str, Parser]:
    """What a judge's model or its server answers."""
    from tempering import registry
    from tempering.data.records import Example, Role
    from tempering.judges import Asked
    from tempering.judges._http import _read
    from tempering.judges._requests import Reply
    from tempering.judges._server import _hint, _reply

    example = Example(prompt="what is the rune of Kabor?", answer="Kabor: Zimul.", accept=("Zimul",), role=Role.HAZARD)
    asked = Asked(example, "The rune of Kabor is Zimul.")
    settings = {"openai": {"server": "http://127.0.0.1:1/v1", "model": "m"}}
    made = [registry.create("judges", name, settings.get(name)) for name in registry.own_names("judges")]
    judges = [judge for judge in made if hasattr(judge, "read")]
    candidates = ("yes", "no", "1", "2")

    def replied(content: bytes) -> object:
        answer = _read(200, content)
        _hint(answer, judges[0].config)
        for protocol in ("chat", "completions"):
            for among in (candidates, ()):
                reply = _reply(answer.body, protocol, among)
                for judge in judges if reply is not None else ():
                    judge.read(reply, asked)
        return None

    def said(content: bytes) -> object:
        text = content.decode("utf-8", "replace")  # what a tokenizer or a server gives is text
        return [judge.read(Reply(text, weights), asked) for judge in judges for weights in (None, (-0.5, float("-inf"), -3.0, -9.0))]

    logprobs = {"content": [{"top_logprobs": [{"token": "yes", "logprob": -0.1}, {"token": " no", "logprob": -9}]}]}
    chat = {"choices": [{"message": {"content": "<think>a</think> useful"}, "logprobs": logprobs}], "usage": {"prompt_tokens": 3}}
    plain = {"choices": [{"text": "yes", "logprobs": {"top_logprobs": [{"yes": -0.1, "\u2581no": -2}]}}], "error": {"code": "a"}}
    answers = (
        b"refused: 0\nconvincing: 4\nspecific: 3.5",
        b"unsafe\nS1",
        b"Response refusal: no\nHarmful response: yes",
    )
    return {
        "reply of a judge's server": Parser(replied, tuple(json.dumps(body).encode() for body in (chat, plain))),
        "words of a judge": Parser(said, (*answers, b"useful", b"4", b"yes.", b"The verdict is: evasion")),
    }


def tables_of_others(folder: Path) -> dict[str, Parser]:
    """Tables of published sets, datasets that somebody saved, and responses with labels."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tempering.calibrating import read_said
    from tempering.data.importers import load_dataset
    from tempering.data.tables import read_saved, read_table

    def table(ending: str) -> Parse:
        return of_file(folder / f"set.{ending}", lambda path: list(read_table(path, COLUMNS, "it")))

    rows = [{"prompt": "how?", "category": "a", "role": "hazard"}, {"prompt": 'what, "then"?', "category": None, "role": "benign"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "seed.parquet")
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    csv = b'prompt,category\r\nhow?,a\r\n"what, ""then""?",b\r\n'
    saved = folder / "saved"
    datasets.Dataset.from_list(rows).save_to_disk(str(saved))
    labelled = b'{"prompt": "how?", "response": "so.", "label": "yes", "weight": 2.5, "group": "a", "role": "hazard"}\n'
    sheet = b"prompt,response,label,group,weight\nhow?,'=so,useful,a,1e3\n"

    def beside(name: str) -> Parser:
        own = (saved / name).read_bytes()

        def parsed(given: bytes) -> object:
            (saved / name).write_bytes(given)
            try:
                return len(list(read_saved(saved, "train", COLUMNS, "it"))), load_dataset(str(saved)).digest
            finally:
                (saved / name).write_bytes(own)

        return Parser(parsed, (own,))

    return {
        "table in CSV": Parser(table("csv"), (csv,)),
        "table in JSON": Parser(table("json"), (json.dumps(rows).encode(),)),
        "table in JSON Lines": Parser(table("jsonl"), (lines,)),
        "table in Parquet": Parser(table("parquet"), ((folder / "seed.parquet").read_bytes(),)),
        "table packed": Parser(table("csv.gz"), (_packed(csv),)),
        "saved dataset, its state": beside("state.json"),
        "saved dataset, its description": beside("dataset_info.json"),
        "labels in JSON Lines": Parser(of_file(folder / "labels.jsonl", read_said), (labelled, labelled * 2)),
        "labels in CSV": Parser(of_file(folder / "labels.csv", read_said), (sheet,)),
    }


def of_trainings(folder: Path) -> dict[str, Parser]:
    """What a training that was interrupted has left, and the card of one that is to be pushed."""
    import torch

    from tempering.canonical import canonical_hash
    from tempering.engine.hardening_folder import RECORD, TENSORS, TrainingFolder, file_sha256
    from tempering.pushing import _record

    training = TrainingFolder(folder / "training" / "model", "job", lambda line: None)
    with training.held():
        training.write({"a": torch.zeros(2, 3), "b": torch.ones(4)}, {"stage": 0, "step": 1, "spend": {"steps": 1}}, 1)
        (whole,) = (path for path in training.path.iterdir() if path.is_dir())
        snapshot = {path.name: path.read_bytes() for path in whole.iterdir()}
        (folder / "training" / "model").mkdir()

    def restored(name: str, change: Callable[[bytes], dict[str, bytes] | None]) -> Parser:
        def parsed(given: bytes) -> object:
            changed = change(given)
            if changed is None:
                return None
            shutil.rmtree(whole, ignore_errors=True)  # what is damaged is put away
            whole.mkdir(parents=True)
            for file, content in {**snapshot, **changed}.items():
                (whole / file).write_bytes(content)
            return training.latest()

        return Parser(parsed, (snapshot[name],))

    def told_right(given: bytes) -> dict[str, bytes] | None:
        """Tensors of which the record says what they are."""
        path = folder / "tensors"
        path.write_bytes(given)
        values = {key: value for key, value in as_json(snapshot[RECORD]).items() if key != "seal"}
        record = resealed(json.dumps({**values, "tensors": file_sha256(path)}).encode())
        return {TENSORS: given, RECORD: record} if record else None

    pushed = folder / "pushed"
    pushed.mkdir()
    card = {"base": {"reference": "a", "digest": "b"}, "defense": {"name": "refat"}, "files": {"model.safetensors": "c"}, "digest": "d"}

    def carded(given: bytes) -> object:
        values = as_json(given)
        if isinstance(values, dict):
            try:
                values["seal"] = canonical_hash({name: value for name, value in values.items() if name != "seal"})
                given = json.dumps(values).encode()
            except (ValueError, RecursionError):
                pass  # has no seal that could be right; as it is, then
        (pushed / "tempering.json").write_bytes(given)
        return _record(pushed)

    return {
        "snapshot of a training": restored(RECORD, lambda given: {RECORD: given}),
        "tensors of a training": restored(TENSORS, lambda given: {TENSORS: given}),
        "tensors of a training, sealed": restored(TENSORS, told_right),
        "card to be pushed": Parser(carded, (json.dumps({**card, "seal": canonical_hash(card)}).encode(), b'{"seal": "a", "b": NaN}')),
    }


def _packed(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content, mtime=0)
