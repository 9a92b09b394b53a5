"""The figures of the claim cards, out of a finished comparison.

    temper run examples/compare-tiny.yaml --out runs/compare-tiny
    python benchmarks/claim_results.py runs/compare-tiny examples/compare-tiny.yaml

writes benchmarks/results/claims/<model>.json, which is committed; :mod:`claim_cards` makes the cards of all such files. A second
comparison of the same model (another threat model, more attacks) is given a name of its own with ``--name``.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

import tempering
from tempering import registry
from tempering.engine.store import RunStore
from tempering.engine.units import Plan
from tempering.report.undone import undone
from tempering.result import Run
from tempering.study import MethodChoice

RESULTS = Path(__file__).resolve().parent / "results" / "claims"
CONTROL = "none"
_MACHINE = ("cpu", "cores", "memory_gib", "accelerator", "torch", "tempering")


def figures(run: Run, command: str) -> dict[str, Any]:
    """Everything that a card says of one comparison, as plain JSON values.

    Args:
        run: a finished comparison of one model.
        command: how to make it again.
    """
    study, units = run.study, run.units
    attacks = {choice.title: choice.name for choice in study.attacks}
    defenses = {choice.title: choice for choice in study.defenses}
    lost = {one.name: {"undone": {"whole": list(one.whole), "in_part": list(one.in_part)}} for one in undone(run.assessment)}
    environment = json.loads(sorted((run.directory / "environments").glob("*.json"))[-1].read_text(encoding="utf-8"))
    return {
        "model": study.models[0].reference,
        "command": command,
        "study": study.digest,
        "hardening_versions": hardening_versions(RunStore(run.directory).plan()),
        "seeds": list(study.seeds),
        "budget": {name: value for name, value in study.budget.model_dump(mode="json").items() if value is not None},
        "tau": study.threshold.tau,
        "epsilon": study.threshold.epsilon,
        "threat_model": study.threat_model.name,
        "prompts": study.probes.prompts,
        "search": None if study.search is None else study.search.trials,
        "wall_hours_of_workers": round(float(units["wall_s"].sum()) / 3600, 2),
        "machine": {name: environment[name] for name in _MACHINE if name in environment},
        "attacks": {title: {"name": name, "family": str(registry.get("attacks", name).family)} for title, name in attacks.items()},
        "control": _side(run, CONTROL),
        "defenses": {
            title: {**_made_by(choice), **_side(run, title), **_compared(run, title), **lost.get(title, {})}
            for title, choice in defenses.items()
            if title in set(units["defense"])
        },
    }


def hardening_versions(plan: Plan) -> list[int]:
    """Versions of the code that made the defended models (``HARDENING_VERSION``): equal settings may make other models under another."""
    return sorted({unit.work.hardening_version for unit in plan.units if unit.work.kind == "harden"})


def _made_by(choice: Any) -> dict[str, Any]:
    """Method and settings of a defence, or of each link of a chain, the defaults of that day among the settings."""
    links = [choice] if choice.name != "chain" else [MethodChoice.model_validate(step) for step in choice.config["steps"]]
    settings = [registry.get("defenses", link.name).Config(**link.config).model_dump(mode="json") for link in links]
    return {"method": [link.name for link in links], "settings": settings}


def _side(run: Run, title: str) -> dict[str, Any]:
    """Outcome and price of every attack on the model with one defence."""
    rows = run.prices[run.prices["defense"] == title]
    prices = {}
    for record in rows.to_dict("records"):
        outcomes = {name: int(record[name]) for name in ("broken", "held", "destroyed", "no_direction", "failed") if record[name]}
        prices[record["attack"]] = {
            "runs": int(record["trials"]),
            "outcomes": outcomes,
            "best_recovered": _number(record["best_recovered"]),
            "utility_kept": _number(record["utility_kept"]),
            **{
                currency: {part: _number(record[f"{currency}_{part}"]) for part in ("median", "low", "high")}
                for currency in ("flops", "steps", "examples")
            },
            "beyond": bool(record["flops_censored"]),
        }
    return {"prices": prices}


def _compared(run: Run, title: str) -> dict[str, Any]:
    table = run.multipliers
    rows = table[(table["defense"] == title) & (table["currency"] == "flops")]
    fields = ("scope", "name", "status", "multiplier", "low", "high", "defended_median", "control_median", "defended_broken",
              "defended_runs", "control_broken", "control_runs", "defended_attack", "control_attack")  # fmt: skip
    return {
        "multipliers": [{field: _plain(row[field]) for field in fields} for row in rows.to_dict("records")],
        "tax": _first(run.tax, title),
        "absence": _first(run.absence, title),
    }


def _first(table: pd.DataFrame, title: str) -> dict[str, Any]:
    rows = table[table["defense"] == title].to_dict("records")
    return {str(name): _plain(value) for name, value in rows[0].items()} if rows else {}


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, str)) or value is None:
        return value
    return value.item() if type(value).__name__ == "bool_" else _number(value)


def _number(value: Any) -> float | None:
    """Rounded to six significant digits; ``None`` for what is not finite."""
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def main() -> None:
    """Read a run and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished comparison")
    parser.add_argument("study", help="the study file that it is a run of, as a reader would name it")
    parser.add_argument("--name", help="of the result file; the model's unless told")
    arguments = parser.parse_args()
    made = figures(tempering.open_run(arguments.run), f"temper run {arguments.study}")
    name = arguments.name or made["model"].replace(":", "-").replace("/", "-")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
