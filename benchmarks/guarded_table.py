"""The tables of docs/guarded-smollm2.md, from a run of examples/guarded-smollm2/audit.yaml.

python benchmarks/guarded_table.py runs/guarded-smollm2
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

import tempering
from tempering.economics.breaks import find_breaks
from tempering.economics.prices import load_price_book
from tempering.report.formatting import amount, share
from tempering.result import Run

OUT = Path(__file__).resolve().parent / "results" / "guarded-smollm2.json"
CELLS = ("both", "only_first", "only_second", "neither")


def collected(directory: Path) -> dict[str, Any]:
    """What the tables are made of: prices, and harm as each judge sees it."""
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    run = tempering.open_run(directory)
    first, second = (judge["name"] for judge in summary["judges"])
    seen = {first: "harm", second: f"harm.{second}"}
    kinds = run.trajectories["unit"].map(run.units.set_index("unit")["kind"])
    reference = run.trajectories[kinds == "reference"].iloc[-1]
    start = run.trajectories[(kinds == "attack") & (run.trajectories["probe"] == 0)].iloc[0]
    told = {name: _by(column, run) for name, column in seen.items()}
    rows = {
        entry["attack"]: {
            "trials": entry["trials"],
            "outcomes": entry["outcomes"],
            "flops": entry["cost_to_break"]["flops"],
            "usd": entry["cost_to_break"]["usd"],
            "by_judge": {name: found[entry["attack"]] for name, found in told.items()},
        }
        for entry in summary["attacks"]
    }
    return {
        "command": "temper run audit.yaml --out runs/guarded-smollm2, in examples/guarded-smollm2; then python benchmarks/guarded_table.py",
        "judges": summary["judges"],
        "before": {name: {"guarded": float(start[column]), "unguarded": float(reference[column])} for name, column in seen.items()},
        "attacks": rows,
    }


def _by(column: str, run: Run) -> dict[str, Any]:
    """As one judge sees the runs of each attack: the most harm at any probe, and the FLOPs of the first probe that is a break.

    Args:
        column: what that judge says of harm.
        run: a finished audit; it is read by the rule that prices are made by.
    """
    study, probes = run.study, run.trajectories.assign(harm=run.trajectories[column])
    accelerator = load_price_book(study.price_book).accelerator(study.accelerator)
    breaks = find_breaks(run.units, probes, tau=study.threshold.tau, epsilon=study.threshold.epsilon, accelerator=accelerator)
    most = probes.groupby("unit")["harm"].max()
    return {
        str(attack): {
            "most_harm": [float(most[unit]) for unit in own["unit"]],
            "broken_at_flops": [float(spent) if math.isfinite(spent) else None for spent in own["flops_upper"]],
            "recovered_at_break": [None if pd.isna(share) else round(float(share), 4) for share in own["recovered_at_break"]],
        }
        for attack, own in breaks.groupby("attack")
    }


def tables(content: dict[str, Any]) -> str:
    """Markdown."""
    names = list(content["before"])
    lines = [f"| | {' | '.join(f'harm by `{name}`' for name in names)} |", "| :-- |" + " --: |" * len(names)]
    for state, title in (("unguarded", "as it came"), ("guarded", "with the safeguard")):
        lines.append(f"| {title} | " + " | ".join(share(content["before"][name][state]) for name in names) + " |")
    lines += [
        "",
        f"| attack | outcome | price [95 %] | most harm, `{names[0]}` | the same, `{names[1]}` | broken, if `{names[1]}` decided |",
        "| :-- | :-- | --: | --: | --: | :-- |",
    ]
    for attack, row in content["attacks"].items():
        most = [statistics.median(row["by_judge"][name]["most_harm"]) for name in names]
        would = [value for value in row["by_judge"][names[1]]["broken_at_flops"] if value is not None]
        other = f"{len(would)} of {row['trials']}" + (f", from {amount(min(would), 'flops')}" if would else "")
        outcome = ", ".join(f"{number} {name}" for name, number in row["outcomes"].items() if number)
        lines.append(f"| `{attack}` | {outcome} | {_price(row['flops'])} | {share(most[0])} | {share(most[1])} | {other} |")
    judge = content["judges"][1]
    lines += [
        "",
        f"Over all probes the two agree on {share(judge['agreement'])} of responses: κ {judge['kappa']:.2f} "
        f"[{judge['kappa_low']:.2f}, {judge['kappa_high']:.2f}]. "
        f"Of {sum(judge[cell] for cell in CELLS):,} responses `{names[0]}` alone found "
        f"{judge['only_first']} useful, `{names[1]}` alone {judge['only_second']:,}, both {judge['both']:,}.",
    ]
    return "\n".join(lines)


def _price(flops: dict[str, Any]) -> str:
    if flops["censored"] or flops["median"] is None:
        return "–" if flops["exceeds"] is None else f"> {amount(flops['exceeds'], 'flops')}"
    high = "∞" if flops["high"] is None else amount(flops["high"], "flops")
    return f"{amount(flops['median'], 'flops')} [{amount(flops['low'], 'flops')}, {high}]"


def main() -> None:
    """Write the figures, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    content = collected(parser.parse_args().run)
    OUT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(tables(content))


if __name__ == "__main__":
    main()
