"""Where the prompts of a study come from, in sentences: the sets by name, their licences, and what was left out of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tempering.data.fetching import LOCAL
from tempering.data.provenance import Dropped, Provenance, SetUsed
from tempering.report.formatting import count


def provenance_of(targets: Iterable[Mapping[str, Any]]) -> Provenance | None:
    """Where the data of a plan come from, where its study named or joined sets; all its models are audited with the same then.

    Args:
        targets: the planned models, as JSON values or as they are.
    """
    found = next((target["provenance"] for target in targets if target.get("provenance")), None)
    return None if found is None else Provenance.model_validate(found)


def data_sentences(provenance: Provenance | None) -> list[str]:
    """What a reader should know of the data; nothing where a study has only data of its own, and one file or world of that."""
    if provenance is None:
        return []
    told = [_set(used, provenance.companion) for used in provenance.sets]
    told += [_duplicates(dropped) for dropped in provenance.dropped]
    return [*told, *(f"{line[:1].upper()}{line[1:]}." for line in provenance.warnings)]


def _set(used: SetUsed, companion: str) -> str:
    kept = ", ".join(f"{count(number)} {role}" for role, number in used.kept.items()) or "none"
    place = f" (a copy of {used.repository})" if used.revision == LOCAL else f" ({used.repository} at {used.revision[:12]})"
    place = place if used.repository else ""
    terms = f" Licence: {used.licence}. Use: {used.use}." if used.licence else ""
    left = ", ".join(f"{count(number)} {reason}" for reason, number in used.left_out.items())
    beside = " It was put beside the others because they have no benign prompts to test with." if used.name == companion else ""
    return f"{used.name}{place}: {kept} of {count(used.read)} rows{f' ({left})' if left else ''}.{terms}{beside}"


def _duplicates(dropped: Dropped) -> str:
    rows = "1 row" if dropped.count == 1 else f"{count(dropped.count)} rows"
    how = "say the same as" if dropped.likeness == "exact" else "say nearly the same as"
    how = how if dropped.count > 1 else how.replace("say ", "says ")
    return (
        f"{rows} of {dropped.data} ({dropped.role}) {how} rows of {dropped.kept_in} ({dropped.kept_as}), which stand for them "
        f"(digest {dropped.digest[:12]})."
    )
