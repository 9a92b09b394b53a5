"""Which executor runs a plan: the choice that a user makes, and the executor that comes of it.

The choice decides where and how fast a study is computed and none of its results, so it is in no study and in no hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, ValidationError

from tempering.errors import InvalidStudy
from tempering.settings import Settings
from tempering.validation import first_problem

if TYPE_CHECKING:
    from tempering.engine.executor import Executor

NAMES = ("local", "ray", "slurm")
"""The executors there are."""


class SlurmSettings(Settings):
    """What each Slurm job asks for, and what it is given to do.

    Attributes:
        partition: where it is queued; Slurm's default unless told.
        account: whom it is charged to, likewise.
        time: minutes after which Slurm ends it.
        gpus: accelerators of a job.
        cpus: cores of a job, which is also how many threads a unit computes with.
        memory: GiB of a job; Slurm's default unless told.
        units: units that a job runs one after the other, so that imports and models are loaded once for all of them.
        cluster: ``slurm``; or ``local`` and ``debug`` of submitit, which need no Slurm.
    """

    partition: str | None = None
    account: str | None = None
    time: Annotated[int, Field(gt=0)] = 240
    gpus: Annotated[int, Field(ge=0)] = 0
    cpus: Annotated[int, Field(gt=0)] = 1
    memory: Annotated[int, Field(gt=0)] | None = None
    units: Annotated[int, Field(gt=0)] = 10
    cluster: Literal["slurm", "local", "debug"] = "slurm"

    @classmethod
    def parse(cls, text: str) -> SlurmSettings:
        """Read ``partition=gpu,gpus=1,time=600``.

        Raises:
            InvalidStudy: the text is no list of ``name=value``, a name is unknown or stands twice, or a value is out of its range.
        """
        values: dict[str, Any] = {}
        for item in text.split(","):
            name, equals, value = (part.strip() for part in item.partition("="))
            if not equals or name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise InvalidStudy(f"--slurm: cannot read {item.strip()!r}", f"write name=value, with a name out of {known}")
            if name in values:
                raise InvalidStudy(f"--slurm {text!r} gives {name!r} twice", "give each name one value")
            values[name] = value
        try:
            return cls(**values)
        except ValidationError as error:
            raise InvalidStudy(f"--slurm {text!r} is not usable: {first_problem(error)}") from None


class ExecutorChoice(Settings):
    """Where a plan is computed.

    Attributes:
        name: ``local`` (this machine), ``ray`` (a Ray cluster) or ``slurm`` (jobs on a shared file system).
        address: of the Ray cluster, as ``10.0.0.1:6379``, or ``auto`` for the one that runs here; ``None`` takes that of ``RAY_ADDRESS``,
            or starts one on this machine for as long as the run takes.
        slurm: what each Slurm job asks for.
        together: runs that a worker trains in one pass at most; ``None`` takes as many as memory holds where that pays.
        devices: how many of this machine hold each model together, where it is too large for one.
        activation_checkpointing: fine-tuning on this machine keeps less of its forward pass and computes it anew.
        keep_weights: the last checkpoint of every attack is kept in the run directory, marked and apart.
        keep_completions: so is what checkpoints say to held-out prompts.
    """

    name: Literal["local", "ray", "slurm"] = "local"
    address: str | None = None
    slurm: SlurmSettings = SlurmSettings()
    together: Annotated[int, Field(gt=0)] | None = None
    devices: Annotated[int, Field(gt=0)] = 1
    activation_checkpointing: bool = False
    keep_weights: bool = False
    keep_completions: bool = False

    @classmethod
    def of(
        cls,
        name: str | ExecutorChoice,
        address: str | None = None,
        slurm: str | None = None,
        together: int | None = None,
        devices: int = 1,
        activation_checkpointing: bool = False,
        keep_weights: bool = False,
        keep_completions: bool = False,
    ) -> ExecutorChoice:
        """The choice that flags describe.

        Args:
            name: ``local``, ``ray`` or ``slurm``, or a choice that is made already.
            address: ``--address`` of the Ray cluster: ``host:port``, or ``auto`` for the one that runs on this machine; with none a cluster
                is started here for as long as the run takes.
            slurm: ``--slurm``, what each job asks for: ``"partition=gpu,gpus=1,cpus=8,time=240"``.
            together: ``--together``, fine-tuning runs that a worker trains in one pass at most; unless told as many as
                memory holds, where that pays.
            devices: ``--devices`` of this machine that hold each model together, where it is too large for one.
            activation_checkpointing: fine-tuning keeps less of its forward pass and computes it anew.
            keep_weights: ``--keep-weights``: keep the last checkpoint of every attack that is computed from now on.
            keep_completions: ``--keep-completions``: keep what checkpoints say to held-out prompts, likewise.

        Raises:
            InvalidStudy: there is no such executor, or a flag belongs to another one.
        """
        if isinstance(name, ExecutorChoice):
            return name
        if devices > 1 and together is not None and together > 1:
            raise InvalidStudy("--together asks for models side by side, and --devices divides one", "leave one of them out")
        if devices > 1 and (keep_weights or keep_completions):
            raise InvalidStudy("what an attack makes is kept of models on one device, and --devices divides one", "leave one of them out")
        if name not in NAMES:
            raise InvalidStudy(f"no executor named {name!r}", f"write --executor {', '.join(NAMES[:-1])} or {NAMES[-1]}")
        flags = (
            ("--address", address, "ray"),
            ("--slurm", slurm, "slurm"),
            ("--devices", devices if devices > 1 else None, "local"),
            ("--activation-checkpointing", "" if activation_checkpointing else None, "local"),
            ("--keep-weights", "" if keep_weights else None, "local"),
            ("--keep-completions", "" if keep_completions else None, "local"),
        )
        for flag, value, belongs in flags:
            if value is not None and name != belongs:
                said = f"{flag} {value}".rstrip()
                raise InvalidStudy(f"{said} says nothing to the executor {name}", f"add --executor {belongs}, or leave it out")
        if address is not None and address.startswith("ray://"):
            raise InvalidStudy(
                f"--address {address} leads through a Ray client", "start the run on a node of the cluster, and give --address auto"
            )
        return cls(
            name=cast(Literal["local", "ray", "slurm"], name),
            address=address,
            slurm=SlurmSettings.parse(slurm) if slurm else SlurmSettings(),
            together=together,
            devices=devices,
            activation_checkpointing=activation_checkpointing,
            keep_weights=keep_weights,
            keep_completions=keep_completions,
        )


LOCAL = ExecutorChoice()
"""This machine."""


def make_executor(choice: ExecutorChoice, workers: int | None) -> Executor:
    """The executor of a choice. Nothing is connected to or started yet that outlives :meth:`Executor.close`.

    Args:
        choice: where to compute.
        workers: workers at work at once, or Slurm jobs; ``None`` takes as many as there is room for.

    Raises:
        InvalidStudy: no workers, on a cluster.
        TemperingError: the package is not installed that the executor needs, or the cluster cannot be reached.
    """
    if choice.name == "local":
        from tempering.engine.local import LocalExecutor
        from tempering.engine.placement import Keeping, Placement

        keeping = Keeping(choice.keep_weights, choice.keep_completions)
        return LocalExecutor(workers, choice.together, Placement(choice.devices, choice.activation_checkpointing, keeping))
    if workers == 0:
        raise InvalidStudy(f"--workers 0 computes in this process, and the executor {choice.name} does not", "leave one of them out")
    if choice.name == "ray":
        from tempering.engine.ray_executor import RayExecutor

        return RayExecutor(choice.address, workers, choice.together)
    from tempering.engine.slurm_executor import SlurmExecutor

    return SlurmExecutor(choice.slurm, workers, choice.together)
