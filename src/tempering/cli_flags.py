"""Groups of flags that several commands have, each written down once.

A command takes a group as one parameter, ``placement: Placement``, and :func:`gathered` shows typer the flags that are in it. What a group
is good for stands in its methods; what a flag is called and what its help says, in :mod:`tempering.cli_options`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from tempering.cli_options import (
    PANELS,
    AcceleratorOption,
    AddressOption,
    AttacksOption,
    BaseOption,
    BudgetOption,
    CheckpointingOption,
    CodeOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    DtypeOption,
    EpsilonOption,
    EvaluatorsOption,
    ExecutorOption,
    JudgesOption,
    KeepCompletionsOption,
    KeepWeightsOption,
    PriceBookOption,
    PromptsOption,
    SearchOption,
    SlurmOption,
    SystemOption,
    TauOption,
    TemplateOption,
    ThreatModelOption,
    TogetherOption,
    TrackOption,
    TrustOption,
    UnguardedOption,
    WorkersOption,
)


@dataclass(frozen=True)
class Flags:
    """Base of every group: a dataclass whose fields are options with their defaults."""

    def given(self) -> dict[str, Any]:
        """Every flag of the group by its name, as keyword arguments."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Loading(Flags):
    """How the model is loaded."""

    dtype: DtypeOption = None
    device: DeviceOption = None
    chat_template: TemplateOption = None
    system: SystemOption = None
    trust_remote_code: TrustOption = False


@dataclass(frozen=True)
class Question(Flags):
    """What is asked of a model: by whom it is attacked, how far, and when it counts as broken."""

    attacks: AttacksOption = "quick"
    budget: BudgetOption = "steps=200"
    search: SearchOption = None
    threat_model: ThreatModelOption = "open-weights"
    tau: TauOption = 0.5
    epsilon: EpsilonOption = 0.1
    prompts: PromptsOption = 128
    judges: JudgesOption = None
    evaluators: EvaluatorsOption = None
    data: DataOption = None
    unguarded: UnguardedOption = None
    base: BaseOption = None
    accelerator: AcceleratorOption = None
    price_book: PriceBookOption = None

    def given(self) -> dict[str, Any]:
        """As keyword arguments; an accelerator that is not named is left to the study."""
        named = super().given()
        if self.accelerator is None:
            del named["accelerator"]
        return named


@dataclass(frozen=True)
class Placement(Flags):
    """Where units are computed, what is kept of them, and whose code may run; decides no result, but for rounding."""

    workers: WorkersOption = None
    executor: ExecutorOption = "local"
    address: AddressOption = None
    slurm: SlurmOption = None
    together: TogetherOption = None
    activation_checkpointing: CheckpointingOption = False
    track: TrackOption = None
    keep_weights: KeepWeightsOption = False
    keep_completions: KeepCompletionsOption = False
    allow_code: CodeOption = False

    def running(self) -> dict[str, Any]:
        """As keyword arguments of :func:`tempering.running.run_study`.

        Raises:
            InvalidStudy: there is no such executor, or a flag belongs to another one.
        """
        from tempering.engine.executors import ExecutorChoice

        apart = ("workers", "executor", "allow_code", "track")
        where = ExecutorChoice.of(self.executor, **{name: value for name, value in self.given().items() if name not in apart})
        return {"workers": self.workers, "executor": where, "allow_code": self.allow_code, "track": self.track or ()}


@dataclass(frozen=True)
class DividedPlacement(Placement):
    """Likewise, for commands that may attack without a defence: only then can a model be divided among devices."""

    devices: DevicesOption = 1


def gathered(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose groups of flags are spread out for typer, which reads signatures, and gathered again when it is called.

    Args:
        command: a function; each parameter that is annotated with a group stands for the group's flags, at its place.

    Returns:
        The same command with one parameter a flag.

    Raises:
        ValueError: two of its parameters or flags have one name.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: about.annotation for name, about in signature.parameters.items() if _is_group(about.annotation)}
    shown: list[inspect.Parameter] = []
    for name, about in signature.parameters.items():
        shown += _flags_of(groups[name]) if name in groups else [about.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

    @functools.wraps(command)
    def spread(**given: Any) -> None:
        made = {name: group(**{field.name: given.pop(field.name) for field in fields(group)}) for name, group in groups.items()}
        command(**given, **made)

    shown.sort(key=_panel)
    spread.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    spread.__annotations__ = {about.name: about.annotation for about in shown}
    return spread


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Flags)


def _panel(about: inspect.Parameter) -> int:
    """Where on the help page a parameter stands: outside the groups first, then in the order of the groups."""
    panels = [getattr(extra, "rich_help_panel", None) for extra in getattr(about.annotation, "__metadata__", ())]
    return next((PANELS.index(panel) + 1 for panel in panels if panel in PANELS), 0)


def _flags_of(group: type[Flags]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name]) for field in fields(group)]
