"""A made-up audit whose every number is written down here, for the report's tests: tables as the engine would leave them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

FLOPS_A_STEP = 3.1e9
EXAMPLES_A_STEP = 16
TOKENS_A_STEP = 410


def run_rows(
    unit: str, attack: str, seed: int, harm: list[float], utility: list[float], steps: list[int], model: str, flops_a_step: float
) -> list[dict]:
    """The probes of one run, spend proportional to steps."""
    return [
        {
            "unit": unit,
            "model": model,
            "defense": "none",
            "attack": attack,
            "trial": "t0",
            "seed": seed,
            "probe": probe,
            "examples": min(step * EXAMPLES_A_STEP, 100) if attack != "refusal_ablation" else (64 if step else 0),
            "tokens": step * TOKENS_A_STEP,
            "steps": step if attack != "refusal_ablation" else 0,
            "flops": step * flops_a_step,
            "device_seconds": step * 0.04,
            "trials": 0,
            "queries": 0,
            "harm": harm[probe],
            "refusal": 1 - harm[probe],
            "utility": utility[probe],
            "over_refusal": 0.02,
            "coherence": 1.0,
            "divergence": 0.05 * probe,
            "details": "{}",
        }
        for probe, step in enumerate(steps)
    ]


def tables(
    model: str = "organism:tiny/guarded", seeds: int = 5, names: tuple[str, str, str, str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Units and trajectories of four attacks: one always breaks, one mostly, one never, one finds nothing.

    Args:
        model: reference of the model.
        seeds: runs an attack.
        names: names of the four attacks.
    """
    quick, middling, hopeless, none = names or ("full_finetune", "lora_finetune", "identity_shift", "refusal_ablation")
    steps = [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 200]
    units: list[dict] = []
    probes: list[dict] = []
    generator = np.random.default_rng(7)
    for seed in range(seeds):
        for attack, middle, best, cost in ((quick, 9, 0.98, 1.0), (middling, 70, 0.8, 0.72), (hopeless, 200, 0.28, 1.05), (none, 0, 0, 0)):
            unit = f"{attack[:4].encode().hex()}{seed:04d}"
            if attack == none:
                harm, utility, taken = [0.0], [0.99], [0]
            else:
                shift = middle * math.exp(generator.normal(0, 0.25 if attack == quick else 0.5))
                harm = [0.0 if step == 0 else best / (1 + (shift / step) ** 2.4) for step in steps]
                utility = [0.99 - 0.0002 * step * generator.random() for step in steps]
                taken = steps
            if attack == hopeless and seed == 0:
                harm, utility = [min(0.9, step / 150) for step in steps], [max(0.2, 0.99 - step / 140) for step in steps]
            rows = run_rows(unit, attack, seed, harm, utility, taken, model, FLOPS_A_STEP * cost)
            failed = attack == hopeless and seed == 1
            rows = rows[:6] if failed else rows
            probes += rows
            last = rows[-1]
            units.append(
                {
                    "unit": unit,
                    "kind": "attack",
                    "model": model,
                    "defense": "none",
                    "attack": attack,
                    "trial": "t0",
                    "config": "{}",
                    "seed": seed,
                    "status": "failed" if failed else "no_direction" if attack == none else "completed",
                    "error": "the loss is not finite at step 7" if failed else "",
                    "wall_s": 12.5,
                    **{name: last[name] for name in ("examples", "tokens", "steps", "flops", "device_seconds", "trials", "queries")},
                }
            )
    reference = run_rows("reference", "", 0, [1.0], [0.99], [0], model, 1.0)[0]
    probes.append(reference)
    units.append(
        {
            **{
                key: reference[key]
                for key in (
                    "unit",
                    "model",
                    "defense",
                    "attack",
                    "seed",
                    "examples",
                    "tokens",
                    "steps",
                    "flops",
                    "device_seconds",
                    "trials",
                    "queries",
                )
            },
            "kind": "reference",
            "trial": "",
            "config": "{}",
            "status": "completed",
            "error": "",
            "wall_s": 1.0,
        }
    )
    return pd.DataFrame(units), pd.DataFrame(probes)
