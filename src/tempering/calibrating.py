"""Judges against labels by hand: a sample of responses to label, and what the labels say of each judge.

    temper judge calibrate runs/mine --out labels.jsonl      # of a run kept with --keep-completions; then label by hand
    temper judge calibrate labels.jsonl --judge text --judge wildguard --of runs/mine

The sample is drawn evenly over attacks and over what the run's judge said, so that rare kinds are in it; every response carries the weight
by which its kind was thinned out, and the estimates are weighted, so that they are those of the run and not of the sample. The verdicts
are not in the file: whoever labels should not know them. It holds what attacked models said, and is for its owner alone.

The right answers go along with a response, where the data tell them, and so do those of the test's other answers that it names: ``text``
judges by them, here as in the run.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tempering.data.records import Example, Role
from tempering.economics.raters import Errors, Interval, JudgeReport, corrected, effective
from tempering.engine.files import KEPT
from tempering.engine.store import RunStore
from tempering.errors import StoreProblem, UnusableData
from tempering.flags import choose_judges
from tempering.judges import Asked, Opinion, Verdict
from tempering.judges._panel import Panel
from tempering.reading import Unreadable, read_text

_log = logging.getLogger(__name__)

MOST_BYTES = 1 << 30
"""Of a file of responses."""

_YES = {"useful", "harmful", "yes", "y", "1", "true"}
_NO = {"refusal", "evasion", "gibberish", "no", "n", "0", "false"}
_GUARDED = ("=", "+", "-", "@", "\t", "\r", "'")
"""Beginnings of a cell that a spreadsheet takes for a formula; an apostrophe is put before them, and taken off again."""
_COLUMNS = ("prompt", "response", "label", "group", "weight", "accept", "named")


@dataclass(frozen=True)
class Said:
    """A response to a hazard prompt.

    Attributes:
        prompt: the prompt.
        response: the response.
        group: where it comes from, as the attack.
        verdict: what the run's judge said; ``""`` where nobody did.
        label: by hand; ``""`` where there is none yet.
        weight: how many of its kind it stands for.
        accept: the right answers; empty where the data tell none, ``None`` where nobody kept them.
        named: answers of the test that the response names.
    """

    prompt: str
    response: str
    group: str = ""
    verdict: str = ""
    label: str = ""
    weight: float = 1.0
    accept: tuple[str, ...] | None = None
    named: tuple[str, ...] = ()

    @property
    def useful(self) -> bool | None:
        """Whether it is labelled useful; ``None`` where it has no label."""
        return None if not self.label.strip() else self.label.strip().lower() in _YES


def read_said(source: Path) -> list[Said]:
    """Responses to hazard prompts: the last ones of each attack of a run that was kept with ``--keep-completions``, or those of a file.

    Args:
        source: a run directory, or a JSONL or CSV file with ``prompt`` and ``response``, and perhaps ``label, group,
            weight, verdict, role, accept, named``.

    Raises:
        UnusableData: it cannot be read, or holds none.
        StoreProblem: the run kept none.
    """
    found = _of_run(source) if source.is_dir() else _of_file(source)
    if not found:
        raise UnusableData(f"{source} holds no response to a hazard prompt", "give each line a prompt and a response")
    return found


def write_sample(source: Path, out: Path, *, number: int = 100, seed: int = 0) -> int:
    """Draw responses to be labelled, and write them to a file for their owner alone.

    Args:
        source: as :func:`read_said` takes it.
        out: a new file; JSONL, or CSV where it is called so.
        number: responses, at most.
        seed: of the draw.

    Returns:
        How many there are.

    Raises:
        StoreProblem: the file is there already, or cannot be written.
        UnusableData: there is nothing to draw from.
    """
    drawn = _drawn(read_said(source), number, seed)
    content = _as_csv(drawn) if out.suffix.lower() == ".csv" else _as_lines(drawn)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise StoreProblem(f"{out} is there already, perhaps with labels in it", "choose another --out") from None
    except OSError as error:
        raise StoreProblem(f"cannot write {out}: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(content)
    return len(drawn)


def calibrate(labelled: Path, judges: Sequence[str] = ("text",), *, of: Path | None = None) -> list[JudgeReport]:
    """Hold judges against labels.

    Args:
        labelled: what :func:`write_sample` wrote, with labels: useful, refusal, evasion or gibberish, or yes and no. Those without are
            left out.
        judges: as ``--judge`` takes them.
        of: responses whose share of harm is corrected, as :func:`read_said` takes them; the labelled ones unless told.

    Returns:
        One report a judge.

    Raises:
        UnusableData: there are no labels, or one that means nothing.
        UnknownName: there is no such judge.
        JudgeUnavailable: a judge cannot be asked.
    """
    rows = [row for row in read_said(labelled) if row.useful is not None]
    if not rows:
        raise UnusableData(f"{labelled} has no labels yet", "write useful, refusal, evasion or gibberish into 'label', or yes and no")
    others = rows if of is None else read_said(of)
    panel = Panel.of(choose_judges(judges))
    if any(seat.name == "text" for seat in panel.seats):
        _warn_of_unknown_answers(labelled, rows)
        _warn_of_unknown_answers(of or labelled, others if of else ())
    try:
        return [_report(seat, rows, others) for seat in panel.seats]
    finally:
        panel.close()


def _warn_of_unknown_answers(source: Path, rows: Sequence[Said]) -> None:
    """Say where ``text`` judges by another rule than it did in the run, or would have."""
    if any(row.accept is None for row in rows):
        _log.warning(
            "warning: %s does not say which answers are right, so text takes compliance for help. A run on data with right answers judged "
            "by those: keep its completions anew, and draw the sample from them",
            source,
        )


def _report(seat: Any, rows: Sequence[Said], others: Sequence[Said]) -> JudgeReport:
    said = seat.opinions([_asked(row) for row in rows])
    pairs = [(row, opinion) for row, opinion in zip(rows, said, strict=True) if opinion is not None]
    errors = effective([bool(row.useful) for row, _ in pairs], [_helps(opinion) for _, opinion in pairs], [row.weight for row, _ in pairs])
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for row, opinion in pairs:
        confusion[row.label.strip().lower()][str(opinion.verdict)] += 1
    there = said if others is rows else seat.opinions([_asked(row) for row in others])
    groups = list(dict.fromkeys(row.group for row in others if row.group))
    harm = [_harm(name, others, there, errors) for name in ("", *(groups if len(groups) > 1 else ()))]
    table = {label: dict(counts) for label, counts in sorted(confusion.items())}
    return JudgeReport(seat.title, seat.judge.model_name, len(pairs), len(rows) - len(pairs), table, errors, harm, seat.judge.cost.as_row())


def _harm(group: str, rows: Sequence[Said], said: Sequence[Opinion | None], errors: Errors) -> dict[str, Any]:
    """The share that a judge finds useful in a group, and what is behind it."""
    told = [(row.weight, _helps(opinion)) for row, opinion in zip(rows, said, strict=True) if opinion and (not group or row.group == group)]
    weights = np.array([weight for weight, _ in told])
    number = float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0
    share = float(sum(weight for weight, helps in told if helps) / weights.sum()) if len(weights) else float("nan")
    fixed = corrected(share * number, number, errors) if len(weights) else Interval(share, share, share)
    return {"group": group, "responses": len(told), "found": share, "corrected": fixed}


def _helps(opinion: Opinion) -> bool:
    return opinion.verdict is Verdict.USEFUL


def _asked(row: Said) -> Asked:
    example = Example(prompt=row.prompt, role=Role.HAZARD, accept=row.accept or ())
    return Asked(example, row.response, frozenset(tuple(answer.split()) for answer in row.named))


def _drawn(rows: Sequence[Said], number: int, seed: int) -> list[Said]:
    """Evenly over strata, each of them at random, in no order; equal responses are drawn once and weigh as many as they are."""
    merged = Counter(replace(row, label="", weight=1.0) for row in rows)
    strata: dict[tuple[str, str], list[tuple[Said, int]]] = defaultdict(list)
    for row, count in merged.items():
        strata[row.group, row.verdict].append((row, count))
    generator = np.random.default_rng(seed)
    left = {name: [members[place] for place in generator.permutation(len(members))] for name, members in sorted(strata.items())}
    taken: dict[tuple[str, str], list[tuple[Said, int]]] = defaultdict(list)
    while sum(map(len, taken.values())) < number and any(left.values()):
        for name in [name for name, members in left.items() if members]:
            if sum(map(len, taken.values())) < number:
                taken[name].append(left[name].pop())
    drawn = []
    for name, members in taken.items():
        thinned = len(strata[name]) / len(members)
        drawn += [replace(row, verdict="", weight=round(count * thinned, 6)) for row, count in members]
    return [drawn[place] for place in generator.permutation(len(drawn))]


# Files


def _of_run(directory: Path) -> list[Said]:
    names = {unit.hash: unit.work.attack_name for unit in RunStore(directory).plan().units}
    files = sorted((directory / KEPT).glob("*/completions.jsonl"))
    if not files:
        raise StoreProblem(f"the run in {directory} kept nothing that models said", "run it anew with --keep-completions")
    found: list[Said] = []
    for path in files:
        rows = [row for row in _records(path) if row.get("role", Role.HAZARD) == Role.HAZARD]
        last = max((_probe(row, path) for row in rows), default=0)
        group = names.get(path.parent.name, "")
        found += [_said({**row, "group": group}, path) for row in rows if _probe(row, path) == last]
    return found


def _of_file(path: Path) -> list[Said]:
    rows = _records(path)
    return [_said(row, path) for row in rows if row.get("role", Role.HAZARD) == Role.HAZARD]


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        text = read_text(path, MOST_BYTES)
    except Unreadable as error:
        raise UnusableData(f"cannot read {path}: {error}") from None
    if path.suffix.lower() == ".csv":
        try:
            return [{name: _unguarded(value) for name, value in row.items() if name} for row in csv.DictReader(io.StringIO(text))]
        except csv.Error as error:
            raise UnusableData(f"{path} is no CSV file: {error}") from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UnusableData(f"{path}, line {number}: it is no JSON object", 'write {"prompt": "…", "response": "…"}')
        rows.append(row)
    return rows


def _probe(row: dict[str, Any], path: Path) -> int:
    number = row.get("probe", 0)
    if not isinstance(number, int):
        raise UnusableData(f"{path}: the probe {str(number)[:40]!r} is no number", "keep the run's completions anew")
    return number


def _said(row: dict[str, Any], path: Path) -> Said:
    prompt, response, label = (row.get(name, "") for name in ("prompt", "response", "label"))
    if not _is_text(prompt) or not prompt.strip() or not _is_text(response):
        raise UnusableData(f"{path}: a row has no prompt or no response", "give each row both, as text")
    label = str(label if label is not None else "").strip()
    if label and label.lower() not in _YES | _NO:
        raise UnusableData(f"{path}: no label {label[:40]!r} is known", "write useful, refusal, evasion or gibberish, or yes and no")
    try:
        weight = float(row.get("weight") or 1.0)
    except (TypeError, ValueError, OverflowError):  # the last of an integer of hundreds of digits
        weight = float("nan")
    if not 0 < weight < 1e12:
        raise UnusableData(f"{path}: the weight {str(row.get('weight'))[:40]!r} is none", "leave the column 'weight' as it was")
    group, verdict = (str(row.get(name) or "") for name in ("group", "verdict"))
    if not _is_text(group):
        raise UnusableData(f"{path}: the group {ascii(group)[:40]} is no text", "give it a plain name")
    accept, named = _list(row, "accept", path), _list(row, "named", path)
    return Said(prompt, response, group, verdict, label, weight, accept, named or ())


def _is_text(value: Any) -> bool:
    """Whether it is text that a file can hold: JSON can spell halves of characters, which none can."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _list(row: dict[str, Any], name: str, path: Path) -> tuple[str, ...] | None:
    """A list of texts, which a spreadsheet holds as JSON; ``None`` where there is none."""
    found = row.get(name)
    if isinstance(found, str):
        found = _in_cell(found)
    if found is None:
        return None
    if not isinstance(found, list) or not all(_is_text(answer) for answer in found):
        raise UnusableData(f"{path}: {name!r} of a row is no list of texts", f"leave the column {name!r} as it was")
    return tuple(found)


def _in_cell(text: str) -> Any:
    """The list in a cell; text that is none stands for itself, as an answer written by hand."""
    if not text.strip():
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, list) else [text]


def _as_lines(rows: Iterable[Said]) -> str:
    return "".join(json.dumps({name: getattr(row, name) for name in _COLUMNS}, ensure_ascii=False) + "\n" for row in rows)


def _as_csv(rows: Iterable[Said]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([_guarded(_cell(getattr(row, name))) for name in _COLUMNS])
    return file.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else str(value)


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_GUARDED) else cell


def _unguarded(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") else cell
