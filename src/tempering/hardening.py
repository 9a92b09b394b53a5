"""Hardening a model: one defence, one directory, and the truth about it.

    import tempering

    hardened = tempering.harden("organism:tiny", defense="refusal_sft", out="runs/hardened")
    hardened  # in a notebook: what it did to the model, and the command that prices it
    tempering.audit(str(hardened.directory), data="organism:tiny", unguarded="organism:tiny/base")

The same call goes on where an interrupted one stopped, and returns at once where the model is there already.
"""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from tempering import consent, organisms, registry
from tempering.engine.events import Event
from tempering.engine.hardening import HardeningJob, TrainingProgress, plan_hardening, record_in, train
from tempering.engine.hardening_card import MEASURES, TITLES, data_reference, interval, stage_lines, steps_taken
from tempering.engine.hardening_measure import Measurement
from tempering.engine.loading import load_records, unguarded_choice
from tempering.errors import InvalidStudy
from tempering.growing import Watcher, build_organism
from tempering.model_choice import ModelChoice
from tempering.models.references import resolve
from tempering.settings import Settings
from tempering.study import DataChoice, MethodChoice
from tempering.trackers import chosen
from tempering.trackers._following import Following
from tempering.trackers._telling import card_values, followed_hardening


@dataclass(frozen=True)
class Hardened:
    """A hardened model on disk.

    Attributes:
        directory: an ordinary Hugging Face directory, with a card in ``README.md`` and ``tempering.json``.
        record: the content of ``tempering.json``.
        next_command: the command that prices this model.
    """

    directory: Path
    record: dict[str, Any]
    next_command: str

    @property
    def measurements(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By ``before`` and ``after``, the shares on held-out prompts with their 95 % Wilson intervals."""
        return dict(self.record["measurements"] or {"before": {}, "after": {}})

    @property
    def spend(self) -> dict[str, float]:
        """What the training used."""
        return dict(self.record["spend"])

    @property
    def steps(self) -> tuple[int, int]:
        """Optimizer steps of its own, and of adversaries that it was trained against; ``spend["steps"]`` is their sum."""
        return steps_taken(self.record)

    def as_json(self) -> dict[str, Any]:
        """As JSON values: ``directory``, ``next`` and the ``record``."""
        return {"directory": str(self.directory), "next": self.next_command, "record": self.record}

    def rows(self) -> list[tuple[str, str, str]]:
        """What it did to the model: measure, before, after, as text."""
        before, after = self.measurements["before"], self.measurements["after"]
        return [(TITLES[name], interval(before[name]), interval(after[name])) for name in MEASURES if name in before and name in after]

    def _repr_html_(self) -> str:
        """The table and the next command. Whatever a model's or a file's name holds, it is text here."""
        head = "".join(f"<th>{title}</th>" for title in ("", "Before", "After"))
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows())
        ended = "".join(f"<li>{html.escape(line)}</li>" for line in self.stage_lines())
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{ended}</ul>"
            f"<p>What it costs to strip its safeguard: <code>{html.escape(self.next_command)}</code></p>"
        )

    def stage_lines(self) -> list[str]:
        """How each stage of the training went."""
        return stage_lines(self.record)


class _Arguments(Settings):
    """What pydantic can tell of the arguments."""

    model: ModelChoice
    data: DataChoice
    seed: Annotated[int, Field(ge=0)]
    floor: Annotated[float, Field(ge=0, le=1)]
    prompts: Annotated[int, Field(gt=0)]


_FLAGS = {"dtype": "--dtype", "seed": "--seed", "floor": "--utility-floor", "prompts": "--prompts"}
"""The flag that gives an argument its value."""


def harden(
    model: str = "organism:tiny",
    *,
    defense: str | dict[str, Any] | MethodChoice,
    out: str | Path,
    data: str | Path | None = None,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    lora: bool = False,
    floor: float = 0.9,
    dtype: str | None = None,
    device: str | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
    prompts: int = 128,
    allow_code: bool = False,
    track: str | Iterable[str] = (),
    on_event: Watcher | None = None,
) -> Hardened:
    """Train a defence into a model and write the safer checkpoint with a card.

    Args:
        model: ``organism:tiny``, a directory, ``hub-id@revision``, a GGUF file or a PEFT adapter; left as it is.
        defense: a name, ``a+b`` for a chain, ``path.py:Class``, or ``{"name": …, "config": …}``.
        out: directory for the hardened model; absent, empty, or holding this very training's model.
        data: a JSONL file, a folder of them or a saved Hugging Face dataset; an organism brings its own world, and lends it by its name.
        seed: decides every random choice.
        config: settings that differ from the defence's defaults; of a chain, by the name of the link.
        lora: train low-rank adapters, merged at the end, in place of all weights.
        floor: keep the last good weights where a stage ends with utility below this share of the model's own; 0 lets it be.
        dtype: type of the weights; the checkpoint's own unless told.
        device: ``cpu``, ``cuda``, ``cuda:1``; an accelerator where there is one unless told.
        chat_template: a file with a Jinja chat template, for a model that comes without.
        trust_remote_code: run code that ships with the model.
        prompts: held-out prompts of each role that the card is measured with, at most.
        allow_code: run the files of Python that are named as ``path.py:Class``.
        track: trackers that are told how the training goes, as :func:`tempering.audit` takes them; their files lie in ``<out>.trackers``.
        on_event: is told of everything that happens.

    Returns:
        The hardened model.

    Raises:
        TemperingError: something in the arguments cannot be used, the training does not fit into memory, or its loss is not finite; the
            message is one line. Nothing stands at ``out`` then.
    """
    tell = on_event or (lambda event: None)
    named = {"reference": model, "dtype": dtype, "device": device, "chat_template": chat_template, "trust_remote_code": trust_remote_code}
    arguments = _checked(
        {"model": named, "data": {"reference": None if data is None else str(data)}, "seed": seed, "floor": floor, "prompts": prompts}
    )
    trackers = chosen(track)
    with consent.code_allowed(allow_code):
        choice, directory = choose_defense(defense, config, lora=lora), _named(Path(out))
        record_in(directory)
        records = load_records(arguments.data, arguments.model)
        records.divide(arguments.data.seed)  # before minutes go into growing an organism
        for line in records.provenance.warnings if records.provenance is not None else ():
            tell(Event("warning", message=line))
        if organisms.is_organism(model):
            build_organism(model, on_event=on_event)
        else:
            resolve(model)
        planned = plan_hardening(arguments.model, arguments.data, choice, seed=arguments.seed, floor=arguments.floor)
        with Following(trackers, followed_hardening(planned.job, choice.title, directory), on_event) as following:
            following.on_event(Event("planned", total=1))
            made = train(
                planned.job,
                directory,
                on_progress=lambda progress: following.on_event(_event(progress, planned.job)),
                target=planned.target,
                view=planned.division.defender_view(),
                measure=Measurement(planned.division.evaluator_view(), arguments.prompts),
            )
            following.results(card_values(made.record))
        return Hardened(made.directory, made.record, _next_command(planned.job, made.directory))


def _named(directory: Path) -> Path:
    """The directory by a name of its own, beside which others can be made: not as ``.`` or ``..``."""
    return directory if directory.name not in ("", "..") else directory.resolve()


def choose_defense(
    defense: str | dict[str, Any] | MethodChoice, config: Mapping[str, Any] | None = None, *, lora: bool = False
) -> MethodChoice:
    """The defence that a name stands for, with its settings, looked up.

    Args:
        defense: a name, ``a+b`` for a chain, ``path.py:Class``, or a choice.
        config: settings laid over the choice's; of a chain written ``a+b``, by the name of the link.
        lora: let every link train adapters.

    Raises:
        UnknownName: there is no such defence.
        InvalidStudy: a setting is wrong, or there is nothing in the defence to train with adapters.
    """
    try:
        choice = MethodChoice.model_validate(defense)
    except ValidationError as error:
        raise InvalidStudy(f"--defense cannot be read: {error.errors()[0]['msg']}", "see: temper ls defenses") from None
    links = [MethodChoice.model_validate(step) for step in choice.config.get("steps", ())] if choice.name == "chain" else []
    given = dict(config or {})
    if not links:
        choice = _laid_over(choice, given, lora=lora and choice.name != "chain")
        registry.create("defenses", choice.name, choice.config)
        return choice
    names = [link.name for link in links]
    if strangers := sorted(set(given) - set(names)):
        raise InvalidStudy(f"the settings {strangers[0]!r} belong to no link of {choice.title}", f"give them by name: {', '.join(names)}")
    made = [_laid_over(link, dict(given.get(link.name) or {}), lora=lora).model_dump(exclude_none=True) for link in links]
    choice = choice.model_copy(update={"config": {**choice.config, "steps": made}})
    registry.create("defenses", choice.name, choice.config)
    return choice


def _laid_over(choice: MethodChoice, config: dict[str, Any], *, lora: bool) -> MethodChoice:
    adapters: dict[str, Any] = {}
    if lora:
        if "parameters" not in registry.get("defenses", choice.name).Config.model_fields:
            raise InvalidStudy(f"the defence {choice.name!r} cannot be trained with adapters", "leave --lora out")
        adapters = {"parameters": "lora"}
    return choice.model_copy(update={"config": {**choice.config, **config, **adapters}})


def _checked(values: dict[str, Any]) -> _Arguments:
    try:
        return _Arguments.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        raise InvalidStudy(f"{_FLAGS.get(field, field)} {first['input']}: {message}") from None


def _event(progress: TrainingProgress, job: HardeningJob) -> Event:
    """Where a training stands, as whoever watches a run is told of it."""
    if progress.kind == "warning":
        return Event("warning", message=progress.message)
    if progress.kind == "measuring":
        return Event("preparing", message="measuring the model before and after on held-out prompts")
    if progress.kind == "done":
        return Event("finished", total=1, done=1, message=progress.message)
    parts = {name if name == "loss" else f"parts/{name}": value for name, value in progress.parts.items()}
    shown = {**parts, "utility_kept": progress.kept}
    name = progress.stage if progress.stages == 1 else f"{progress.stage} ({progress.place} of {progress.stages})"
    return Event(
        "training",
        unit=job.hash,
        label=name,
        total=1,
        steps_done=progress.steps_done,
        steps_total=progress.steps_total,
        measurements={key: value for key, value in shown.items() if math.isfinite(value)},
        message=progress.message,
    )


def _next_command(job: HardeningJob, directory: Path) -> str:
    """The audit of the hardened model, as a shell takes it."""
    unguarded = unguarded_choice(job.model)
    words = ["temper", "audit", str(directory), "--data", data_reference(job.data.reference, job.model)]
    words += ["--unguarded", unguarded.reference] if unguarded is not None else []
    words += ["--device", job.model.device] if job.model.device else []
    words += ["--trust-remote-code"] if job.model.trust_remote_code else []
    return shlex.join(words)
