"""The card of a hardened model: ``tempering.json`` for programs and ``README.md`` for people, both of the same record.

Paths are shortened to the names of their files, so that a card can be published as it is.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from tempering import organisms, registry
from tempering.canonical import canonical_hash
from tempering.data.members import members
from tempering.defenses._contract import Defense
from tempering.engine.environment import describe_environment
from tempering.engine.files import replace_file, write_durably
from tempering.engine.hardening_folder import file_sha256
from tempering.engine.loading import unguarded_choice
from tempering.model_choice import ModelChoice
from tempering.models import Target
from tempering.models.saving import files_in
from tempering.relocation import located

if TYPE_CHECKING:
    from tempering.engine.hardening import HardeningJob

RECORD = "tempering.json"
CARD = "README.md"
SCHEMA = 1
"""Raised when the meaning of a field of ``tempering.json`` changes."""

MEASURES = ("harm", "refusal", "over_refusal", "borderline", "utility", "coherence")
"""What the table of a card shows, in this order."""


def make_record(job: HardeningJob, target: Target, hardened: Target, training: dict[str, Any]) -> dict[str, Any]:
    """Everything that a card says, as JSON values; the files' hashes are added by :func:`write_card`.

    Args:
        job: what was trained.
        target: the model before.
        hardened: the model after.
        training: ``stages``, ``spend``, ``watch`` and ``measurements``.
    """
    method: Defense = registry.create("defenses", job.defense.name, job.defense.config)
    unguarded = unguarded_choice(job.model)
    environment = describe_environment()
    return {
        "schema": SCHEMA,
        "job": job.hash,
        "tempering": environment["tempering"],
        "digest": hardened.digest,
        "base": {
            "reference": shortened(job.model.reference),
            "digest": target.digest,
            "revision": target.revision,
            "dtype": target.dtype,
            "safeguard": target.safeguard,
            **({"system": job.model.system} if job.model.system is not None else {}),
            "unguarded": None if unguarded is None else shortened(unguarded.reference),
        },
        "data": {
            "reference": _shortened_data(data_reference(job.data.reference, job.model)),
            "digest": job.data_digest,
            "supplements_digest": job.supplements_digest,
            "seed": job.data.seed,
            "domains": list(job.data.domains),
        },
        "defense": {**_described(job.defense.name, method), "code": job.defense.code, "links": _links(method)},
        "seed": job.seed,
        "floor": job.floor,
        **training,
        "environment": environment,
    }


def _described(name: str, method: Defense) -> dict[str, Any]:
    return {
        "name": name.rpartition("/")[2],
        "config": method.config.model_dump(mode="json"),
        "source": method.source,
        "claim": method.claim,
        "withholds": str(method.withholds),
    }


def _links(method: Defense) -> list[dict[str, Any]]:
    """The defences that a chain is made of, each with its whole settings; none for any other defence."""
    links: list[Defense] = getattr(method, "links", [])
    return [_described(step.name, link) for step, link in zip(method.config.steps, links, strict=True)] if links else []


def write_card(record: dict[str, Any], folder: Path) -> None:
    """Write both files into the folder that holds the model already; its files are named by their hashes, and the record is sealed."""
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files_in(folder)}
    whole = {**record, "files": files}
    whole["seal"] = canonical_hash(whole)
    write_durably(folder / RECORD, (json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_durably(folder / CARD, card_text(whole).encode())


def mend_card(folder: Path) -> None:
    """Write the card for people anew where it is not what follows from the record; one of before, without a seal, is left as it is."""
    record = json.loads((folder / RECORD).read_bytes())
    if "seal" not in record:
        return
    text = card_text(record).encode()
    if not (folder / CARD).is_file() or (folder / CARD).read_bytes() != text:
        replace_file(folder / CARD, text)


def shortened(reference: str) -> str:
    """A reference as a card shows it: of a path that exists, its last part."""
    path = located(reference) or Path(reference).expanduser()
    return reference if organisms.is_organism(reference) or not path.exists() else path.resolve().name


def _shortened_data(reference: str) -> str:
    """The same of every set that a reference to data joins."""
    return "+".join(member.reference if member.name else shortened(member.reference) for member in members(reference))


def data_reference(reference: str | None, model: ModelChoice) -> str:
    """What names the data: their reference, or the organism whose world they are."""
    return model.reference.partition("/")[0] if reference is None else reference


def card_text(record: dict[str, Any]) -> str:
    """The model card, front matter first."""
    base, defense = record["base"], record["defense"]
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base["reference"] if base["revision"] else None,
        tags=["tempering", "tamper-resistance", "safeguard", *_names(defense)],
    )
    parts = defense["links"] or [defense]
    text = [
        f"---\n{head.to_yaml()}\n---",
        f"# {base['reference']}, hardened by {' + '.join(_names(defense))}",
        _origin(record),
        "## What was done",
        _training(record),
        "## What it did",
        _effects(record["measurements"]),
        "## What this card does not show",
        _limits(record),
        "## Settings",
        *(f"`{part['name']}`:\n\n```json\n{json.dumps(part['config'], indent=2, ensure_ascii=False)}\n```" for part in parts),
    ]
    return "\n\n".join(text) + "\n"


def _origin(record: dict[str, Any]) -> str:
    base, data, defense = record["base"], record["data"], record["defense"]
    revision = f" at revision `{base['revision']}`" if base["revision"] else ""
    rows = [
        ("Base", f"`{base['reference']}`{revision}, digest `{base['digest'][:16]}`, {base['dtype']}"),
        ("This model", f"digest `{record['digest'][:16]}`"),
        ("Data", f"`{data['reference']}`, digest `{data['digest'][:16]}`{_beside(data)}"),
        ("Defence", f"`{' + '.join(_names(defense))}`, seed {record['seed']}"),
        *(("Source" if part is defense else f"Source of {part['name']}", part["source"]) for part in defense["links"] or [defense]),
        *(("Claim" if part is defense else f"Claim of {part['name']}", part["claim"]) for part in defense["links"] or [defense]),
        ("Licence", "that of the base model; hardening adds no terms of its own"),
        ("Made by", f"tempering {record['tempering']}, job `{record['job'][:16]}`"),
    ]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in rows if value)])


def _beside(data: dict[str, Any]) -> str:
    return f", with the owner's own data beside it, digest `{data['supplements_digest'][:16]}`" if data["supplements_digest"] else ""


def _training(record: dict[str, Any]) -> str:
    spend = record["spend"]
    own, adversaries = steps_taken(record)
    inner = f", {adversaries:,} of adversaries between them" if adversaries else ""
    stages = [f"- {line}" for line in stage_lines(record)]
    spent = (
        f"The training used {spend['flops']:.3g} floating-point operations, {spend['tokens']:,.0f} tokens, {own:,} optimizer steps{inner} "
        f"and {spend['examples']:,.0f} distinct examples, in {spend['device_seconds']:,.0f} seconds on "
        f"{_machine(record['environment'])}; the looks at utility are not in it."
    )
    watch = record["watch"]
    if not watch["prompts"]:
        watched = "Utility was not watched: the defender's data keep no benign or borderline prompts back for it."
    elif watch["own"] is None:
        watched = "Utility was not watched: the base answers none of the defender's validation prompts well."
    else:
        watched = (
            f"Utility was watched on {watch['prompts']} of the defender's own validation prompts every {watch['steps']} steps, with a "
            f"floor of {record['floor']:.0%} of the base's {watch['own']:.0%}."
        )
    return "\n".join([*stages, "", spent, "", watched])


def stage_lines(record: dict[str, Any]) -> list[str]:
    """How each stage of the training went, and a warning where nothing came of any."""
    lines = [_stage_line(stage) for stage in record["stages"]]
    if record["digest"] == record["base"]["digest"]:
        lines.append("Nothing of the training was kept: these are the weights of the base. Try a lower learning rate or fewer steps.")
    return lines


def steps_taken(record: dict[str, Any]) -> tuple[int, int]:
    """Optimizer steps of the defender's own, and of adversaries that were trained against in between (``tar``)."""
    own = sum(int(stage["steps_done"]) for stage in record["stages"])
    return own, max(0, int(record["spend"]["steps"]) - own)


def undone_lines(record: dict[str, Any]) -> list[str]:
    """Likewise of the stages that the floor took back, all or in part; none where none was."""
    return [_stage_line(stage) for stage in record["stages"] if stage["floored"]]


def _stage_line(stage: dict[str, Any]) -> str:
    parts = [f"{stage['name']}: {stage['steps_done']} of {stage['steps']} steps", stage["ended"]]
    if stage["floored"]:
        kept = stage["steps_kept"]
        parts.append(f"the weights of step {kept} were kept" if kept else "none of its steps was kept")
    if stage["utility_kept"] is not None:
        parts.append(f"utility {stage['utility_kept']:.0%} of the base's")
    return "; ".join(parts)


def _machine(environment: dict[str, Any]) -> str:
    return str(environment["cpu"] if environment["accelerator"] == "none" else environment["accelerator"])


def _effects(measurements: dict[str, Any] | None) -> str:
    if measurements is None:
        return "Nothing was measured when this model was made."
    rows = [
        f"| {TITLES[name]} | {interval(measurements['before'][name])} | {interval(measurements['after'][name])} | "
        f"{measurements['after'][name]['prompts']} |"
        for name in MEASURES
        if name in measurements["after"]
    ]
    return "\n".join(
        [
            "On held-out prompts that the training did not see, with 95 % Wilson intervals:",
            "",
            "| | base | this model | prompts |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )


TITLES = {
    "harm": "hazard prompts answered usefully",
    "refusal": "hazard prompts refused",
    "over_refusal": "borderline prompts refused",
    "borderline": "borderline prompts answered well",
    "utility": "benign prompts answered well",
    "coherence": "responses that are text",
}
"""What each measure is a share of, in words."""


def interval(measured: dict[str, Any]) -> str:
    """A share with its interval: "0.98 [0.94, 0.99]"; "–" where the data could not tell."""
    value = measured["value"]
    return "–" if value is None or math.isnan(value) else f"{value:.2f} [{measured['low']:.2f}, {measured['high']:.2f}]"


def _limits(record: dict[str, Any]) -> str:
    base, data = record["base"], record["data"]
    unguarded = f" --unguarded {base['unguarded']}" if base["unguarded"] else ""
    command = f"temper audit . --data {data['reference']}{unguarded}"
    floored = [stage["name"] for stage in record["stages"] if stage["floored"]]
    cut_short = (
        f"The training of {' and '.join(floored)} was ended early to keep the model useful, so this is less than the defence's full "
        "treatment. "
        if floored
        else ""
    )
    return (
        "Nothing above says that this model resists tampering. The numbers are of the model as it stands, asked plainly. "
        "What it costs to strip its safeguard is what an audit measures, and an audit finds only what its attacks reach: its price is what "
        f"the cheapest of them paid, an upper bound on what a better attacker would. {cut_short}"
        "The claim of the defence's authors is theirs, made for other models.\n\n"
        "The audit of this model, from inside this directory:\n\n"
        f"```sh\n{command}\n```"
    )


def _names(defense: dict[str, Any]) -> list[str]:
    """Names of the defences in it: its own, or those of a chain's links."""
    return [link["name"] for link in defense["links"]] or [defense["name"]]


def _cell(text: str) -> str:
    """Text inside a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")
