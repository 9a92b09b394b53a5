"""The page of promises as long as ``make torture``, which takes hours, has not written the one with figures."""

from __future__ import annotations


def page() -> str:
    """Every promise, in the order and under the headings of the page with figures."""
    from torture.promise import GROUPS, all_promises

    parts = ["# Reliability and security: the promises", "`make torture` tries each with real faults and writes the figures."]
    promises = all_promises()
    for group in GROUPS:
        parts.append(f"## {group}")
        parts += [f"### {promise.name}\n\n{promise.sentence}" for promise in promises if promise.group == group]
    return "\n\n".join(parts) + "\n"
