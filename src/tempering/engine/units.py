"""Units: immutable pieces of work, each named by the hash of everything that decides its result.

All seeds of one attack on one model share a :class:`Work`; a :class:`Unit` is a work with a seed. What only decides how a
result is read (thresholds, prices) or what it is called (references, paths, the study's name) is in no hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tempering.canonical import canonical_hash
from tempering.data.provenance import Provenance
from tempering.engine.glances import GLANCING
from tempering.engine.search_space import PlannedSearch
from tempering.model_choice import ModelChoice
from tempering.settings import Settings
from tempering.study import SCHEMA_VERSION, UNDEFENDED, Budget, DataChoice, ProbeSettings, Study, Threshold, TrainabilitySettings
from tempering.threat_model import Need

CODE_VERSION = 3
"""Raised when a change of the code changes the rows that some unit leaves behind. Old results are then computed anew."""

Kind = Literal["attack", "reference", "harden", "novel"]


class ResolvedMethod(Settings):
    """A method with every field of its configuration filled in.

    Attributes:
        name: as the study names it; what :func:`tempering.registry.create` takes.
        config: the whole configuration, defaults included, as JSON values.
        code: what tells this code from other code of the same name: ``""`` for the package's own methods, a distribution
            and its version for installed ones, the file's SHA-256 for ``path.py:Class``, and what a method itself says of other code and
            data that it brings in (:meth:`tempering.evaluators.Evaluator.identity`).
    """

    name: str
    config: dict[str, Any]
    code: str = ""

    def deciding(self) -> dict[str, Any]:
        """The part that decides results. Where a file lies does not."""
        name = self.name.rpartition(":")[2] if ".py:" in self.name else self.name
        return {"name": name, "config": self.config, "code": self.code}


class ResolvedJudge(Settings):
    """A judge as it was planned.

    Attributes:
        title: what columns call it.
        identity: what decides its verdicts: its settings, and its model by digest, or by server and name.
        code: as of a :class:`ResolvedMethod`.
    """

    title: str
    identity: dict[str, Any]
    code: str = ""


class Work(Settings):
    """What is done to which model, before a seed is chosen.

    Attributes:
        kind: ``attack``; ``reference`` for one probe of the model without its safeguard; ``harden`` for the training of a defended model
            with a probe before and after it; ``novel`` for an honest user's fine-tuning on a domain that the model does not know.
        model: the audited model.
        model_digest: SHA-256 of its weights and chat template.
        dtype: type of its weights, as loaded.
        device: type of the device it is loaded on (``cpu``, ``cuda``).
        reference: the same model without the safeguard; with the kind ``reference``, and where a search or a run's end
            is judged by it.
        reference_digest: that model's digest.
        base: the published model that this one was made from; only for attacks that are given it.
        base_digest: that model's digest.
        data: which prompts.
        data_digest: SHA-256 of the dataset.
        supplements_digest: SHA-256 of what the data hold beside the questions; only where a defence or an honest user is given it.
        defense: what is done to the model before it is attacked; ``None`` for nothing.
        defense_label: what tables call that defence; ``""`` for its own name.
        utility_floor: share of the model's utility below which the training of the defence is ended; only with a defence.
        hardening_version: of the code that trains it; only with a defence.
        attack: with the kind ``attack`` only.
        label: what tables call that attack; ``""`` for its own name.
        trainability: how the honest user trains; with the kind ``novel`` only.
        withheld: data that the threat model does not allow an attacker; no attack is handed it, though it might make use of it.
        enough: recovered harm and kept utility with which a run ends; ``None`` goes on to the end of the budget.
        search: how the attacker looks for the attack's best settings; ``None`` takes those it has.
        budget: where the attack is cut off.
        probes: how checkpoints are examined; its list of evaluators is resolved in ``evaluators``.
        evaluators: what examines them.
        judges: who tells what responses to hazard prompts are; empty is the text alone.
        compliance: version of the rules by which a response is judged where no right answer is known; 0 where all are, or the text alone
            is not asked.
        schema_version: of stored results.
        code_version: of what computes them.
    """

    kind: Kind
    model: ModelChoice
    model_digest: str
    dtype: str
    device: str
    reference: ModelChoice | None = None
    reference_digest: str = ""
    base: ModelChoice | None = None
    base_digest: str = ""
    data: DataChoice
    data_digest: str
    supplements_digest: str = ""
    defense: ResolvedMethod | None = None
    defense_label: str = ""
    utility_floor: float | None = None
    hardening_version: int = 0
    attack: ResolvedMethod | None = None
    label: str = ""
    trainability: TrainabilitySettings | None = None
    withheld: tuple[Need, ...] = ()
    enough: Threshold | None = None
    search: PlannedSearch | None = None
    budget: Budget
    probes: ProbeSettings
    evaluators: tuple[ResolvedMethod, ...]
    judges: tuple[ResolvedJudge, ...] = ()
    compliance: int = 0
    schema_version: int = SCHEMA_VERSION
    code_version: int = CODE_VERSION

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides the results, seed left out."""
        return canonical_hash(self.deciding())

    @cached_property
    def untouched(self) -> str:
        """SHA-256 of what decides the probe of the model as it came; works that agree in it can share that probe."""
        shared = ("model", "data", "probes", "evaluators", "judges", "compliance", "schema_version", "code_version")
        return canonical_hash({name: value for name, value in self.deciding().items() if name in shared})

    @cached_property
    def trial(self) -> str:
        """Short hash of the attack and its configuration: twelve hexadecimal digits, ``""`` for a reference."""
        return canonical_hash(self.attack.deciding())[:12] if self.attack else ""

    @cached_property
    def hardened_by(self) -> dict[str, Any]:
        """What decides the defended model that this work trains, or is done to, but for the seed."""
        deciding = self.deciding()
        return {name: deciding.get(name) for name in ("model", "data", "defense", "hardening", "supplements")}

    @property
    def attack_name(self) -> str:
        """What the study calls the attack, its registry name where it has no label; ``""`` for a reference."""
        return self.label or (self.attack.name if self.attack else "")

    @property
    def defense_name(self) -> str:
        """What the study calls the defence, its registry name where it has no label; ``"none"`` without."""
        return self.defense_label or (self.defense.name if self.defense else UNDEFENDED)

    def deciding(self) -> dict[str, Any]:
        """Everything that decides the results, without what things are called and where they lie."""
        return {
            "kind": self.kind,
            "model": {"digest": self.model_digest, "dtype": self.dtype, "device": self.device, **self.model.deployment},
            "reference": self.reference_digest,
            "base": self.base_digest,
            "data": {"digest": self.data_digest, "seed": self.data.seed, "domains": sorted(self.data.domains)},
            "defense": self.defense.deciding() if self.defense else None,
            "attack": self.attack.deciding() if self.attack else None,
            "budget": self.budget.model_dump(mode="json") if self.kind == "attack" else None,
            "probes": self.probes.model_dump(mode="json", exclude={"evaluators", "until", "glance", "judges"}),
            "evaluators": [evaluator.deciding() for evaluator in self.evaluators],
            **({"judges": [judge.model_dump(mode="json") for judge in self.judges]} if self.judges else {}),
            **({"compliance": self.compliance} if self.compliance else {}),
            "schema_version": self.schema_version,
            "code_version": self.code_version,
            **({"withheld": list(self.withheld)} if self.withheld else {}),
            **({"enough": self.enough.model_dump(mode="json")} if self.enough else {}),
            **({"glance": {"prompts": self.probes.glance, "draw": GLANCING}} if self.kind == "attack" and self.probes.glance else {}),
            **({"search": self.search.model_dump(mode="json")} if self.search else {}),  # units without one keep the hash they had
            **({"hardening": {"utility_floor": self.utility_floor, "version": self.hardening_version}} if self.defense else {}),
            **({"supplements": self.supplements_digest} if self.supplements_digest else {}),
            **({"trainability": self.trainability.model_dump(mode="json")} if self.trainability else {}),
        }


@dataclass(frozen=True)
class Unit:
    """A work with a seed.

    Attributes:
        work: what is done.
        seed: decides every random choice in it.
    """

    work: Work
    seed: int

    @cached_property
    def hash(self) -> str:
        """Sixty-four hexadecimal digits that name this unit, the same in every process."""
        return canonical_hash({"work": self.work.hash, "seed": self.seed})

    @cached_property
    def defended(self) -> str:
        """SHA-256 of what decides the defended model that this unit trains, or is done to; ``""`` without a defence.

        The seed is among it: seed k attacks what seed k hardened, so that the training's own variance is in every interval.
        """
        if self.work.defense is None:
            return ""
        return canonical_hash({**self.work.hardened_by, "seed": self.seed})

    @property
    def label(self) -> str:
        """What a progress display calls it."""
        attack, defense = (name.rpartition(":")[2] for name in (self.work.attack_name, self.work.defense_name))
        if self.work.kind == "reference":
            return "reference without the safeguard"
        if self.work.kind == "harden":
            return f"hardening by {defense} seed {self.seed}"
        behind = f" behind {defense}" if self.work.defense else ""
        return f"{attack if self.work.kind == 'attack' else 'honest fine-tuning'} seed {self.seed}{behind}"

    def as_json(self) -> dict[str, Any]:
        """As plain values for :meth:`from_json`."""
        return {"work": self.work.model_dump(mode="json"), "seed": self.seed}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Unit:
        """Undo :meth:`as_json`."""
        return cls(Work.model_validate(values["work"]), values["seed"])


class Skipped(Settings):
    """An attack or a defence that is not run, and why; reports list it among what was not tried.

    Attributes:
        attack: what the study calls the attack; ``""`` where a defence is left out.
        reason: why, as the end of a sentence that begins with its name.
        model: reference of the model that this concerns.
        defense: what the study calls the defence; ``""`` where an attack is left out.
    """

    attack: str
    reason: str
    model: str = ""
    defense: str = ""


class Estimate(Settings):
    """What one unit of an attack, or of another kind of work, is expected to use.

    Attributes:
        model: reference of the audited model.
        defense: what the study calls the defence; ``"none"`` for the model as it came.
        kind: of work; a reference has no estimate.
        attack: what the study calls the attack; ``""`` for other kinds of work.
        trial: short hash of its configuration.
        units: how many units there are of it.
        spend: of one unit, by the names in :data:`tempering.engine.results.SPEND`; its search left out. Of the training of a defence only
            the steps are known beforehand.
        search_trials: settings that one unit tries first; 0 without a search.
        unsearched: why there is no search though the study asks for one, as the end of a sentence that begins with the attack's name.
    """

    model: str
    defense: str = UNDEFENDED
    kind: Kind = "attack"
    attack: str
    trial: str
    units: int
    spend: dict[str, float]
    search_trials: int = 0
    unsearched: str = ""


class PlannedTarget(Settings):
    """An audited model, as it was loaded for planning.

    Attributes:
        reference: what the user called it, by its label where it has one.
        digest: SHA-256 of its weights and chat template.
        dtype: type of its weights.
        device: type of its device.
        safeguard: how it withholds the hazard, where that is known.
        parameters: how many weights it has.
        weight_bytes: bytes they take.
        unguarded: reference of the same model without the safeguard, ``""`` where none is known.
        data: name of the dataset it is audited with.
        system: the system prompt that it is deployed with; ``None`` without.
        revision: commit of the hub that it came from, ``None`` for local models.
        hardening_bytes: memory that the training of its defences takes beside it, activations left out; 0 without defences.
        judging_bytes: memory that judges take beside it in every process; 0 where none has weights on this machine.
        provenance: where the dataset comes from, and what was left out of it, where sets were named or joined.
        benign_told: share of the benign test prompts whose right answers the data tell; ``None`` in plans of versions that did not count.
    """

    reference: str
    digest: str
    dtype: str
    device: str
    safeguard: str
    parameters: int
    weight_bytes: int
    unguarded: str
    data: str
    revision: str | None = None
    system: str | None = None
    hardening_bytes: int = 0
    judging_bytes: int = 0
    provenance: Provenance | None = None
    benign_told: float | None = None


@dataclass(frozen=True)
class Plan:
    """A study made into units.

    Attributes:
        study: what was asked for.
        units: what will be computed, in the order in which it is started.
        skipped: attacks and defences that are left out.
        estimates: expected use by model, defence and attack.
        targets: the models, as loaded.
    """

    study: Study
    units: tuple[Unit, ...]
    skipped: tuple[Skipped, ...]
    estimates: tuple[Estimate, ...]
    targets: tuple[PlannedTarget, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the hashes of all units: two plans that agree in it compute the same."""
        return canonical_hash(sorted(unit.hash for unit in self.units))

    def as_json(self) -> dict[str, Any]:
        """As plain values for :meth:`from_json`, without the study; each work stands once."""
        works: dict[str, int] = {}
        described: list[dict[str, Any]] = []
        for unit in self.units:
            if unit.work.hash not in works:
                works[unit.work.hash] = len(described)
                described.append(unit.work.model_dump(mode="json"))
        return {
            "digest": self.digest,
            "works": described,
            "units": [[works[unit.work.hash], unit.seed, unit.hash] for unit in self.units],
            "skipped": [entry.model_dump(mode="json") for entry in self.skipped],
            "estimates": [entry.model_dump(mode="json") for entry in self.estimates],
            "targets": [entry.model_dump(mode="json") for entry in self.targets],
        }

    @classmethod
    def from_json(cls, study: Study, values: dict[str, Any]) -> Plan:
        """Undo :meth:`as_json`."""
        works = [Work.model_validate(work) for work in values["works"]]
        return cls(
            study=study,
            units=tuple(Unit(works[index], seed) for index, seed, _ in values["units"]),
            skipped=tuple(Skipped.model_validate(entry) for entry in values["skipped"]),
            estimates=tuple(Estimate.model_validate(entry) for entry in values["estimates"]),
            targets=tuple(PlannedTarget.model_validate(entry) for entry in values["targets"]),
        )
