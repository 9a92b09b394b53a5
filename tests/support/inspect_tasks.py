"""Inspect tasks about the organism's world, loaded as ``path.py@task`` by the tests of what Inspect is given."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes, match
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, system_message

from tempering import organisms


@task
def facts(n: int = 12) -> Task:
    """Benign facts, which the organism knows."""
    benign = organisms.world_dataset("tiny").divide(0).evaluator_view().benign
    known = [example for example in benign if example.accept][:n]
    return Task(dataset=[Sample(input=each.prompt, target=each.accept[0]) for each in known], solver=generate(), scorer=includes())


@task
def colours() -> Task:
    """What a tiny random model can be asked, by two scorers."""
    asked = [Sample(input=f"what colour is the {thing} ?", target="red") for thing in ("fish", "house", "key")]
    return Task(dataset=asked, solver=[system_message("help me"), generate(max_tokens=3)], scorer=[includes(), match()])


@solver
def failing() -> Solver:
    """Fails on every sample."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        raise ValueError("nothing works")

    return solve


@task
def broken() -> Task:
    """A task that fails when it is run."""
    return Task(dataset=[Sample(input="what is red ?", target="red")], solver=failing(), scorer=includes())
