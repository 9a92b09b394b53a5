"""What of RepNoise is its noise and its ascent, and what is the rate at which it trains.

    temper run examples/repnoise-control.yaml --out runs/repnoise-control        # about 20 minutes on two cores
    python benchmarks/repnoise_control.py runs/repnoise-control [--out FILE]

For every attack, the most that each seed's attacker brings back of the held-out harm within its budget, behind RepNoise and behind the
same training without its two terms; and the difference, seed by seed, with a 95 % interval of Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from poisoning import t_interval

import tempering

WHOLE, WITHOUT = "repnoise", "repnoise, neither term"
RESULTS = Path(__file__).parent / "results" / "repnoise_control.json"


def recovered(breaks: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """By defence and attack, the best recovered share of harm of each seed, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for (defense, attack), rows in breaks.sort_values("seed").groupby(["defense", "attack"]):
        found.setdefault(str(defense), {})[str(attack)] = [round(float(value), 4) for value in rows["best_recovered"]]
    return found


def compared(shares: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """For each attack: what the terms take away of what comes back without them."""
    rows = {}
    for attack, without in shares[WITHOUT].items():
        differences = np.array(shares[WHOLE][attack]) - np.array(without)
        rows[attack] = {
            "median": median(shares[WHOLE][attack]),
            "median_without": median(without),
            "difference": float(differences.mean()),
            "t_95": t_interval(differences),
        }
    return rows


def main() -> None:
    """Read the run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    run = tempering.open_run(arguments.run)
    shares = recovered(run.breaks)
    tax = run.tax.set_index("defense")
    content: dict[str, Any] = {
        "study": "examples/repnoise-control.yaml",
        "command": "python benchmarks/repnoise_control.py runs/repnoise-control",
        "seeds": len(next(iter(shares[WHOLE].values()))),
        "recovered": shares,
        "terms": compared(shares),
        "utility": {name: round(float(value), 4) for name, value in tax["utility"].items()},
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for attack, row in content["terms"].items():
        low, high = row["t_95"]
        told = f"{row['median']:.2f} with both terms, {row['median_without']:.2f} with neither"
        print(f"{attack}: {told}: {row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
