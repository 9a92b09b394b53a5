"""One hash for one content, in every process: what studies, units and files are named by."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def canonical_hash(value: Any) -> str:
    """SHA-256 of the value's canonical JSON: sorted keys, no spaces, no NaN.

    Args:
        value: anything JSON can hold; sets must have been made lists.

    Returns:
        Sixty-four hexadecimal digits, the same in every process.
    """
    return hashlib.sha256(json.dumps(_sorted_sets(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


_LEAVES = frozenset({str, int, bool, type(None)})
"""What stays as it is; looked up before anything is called, since a resumed run hashes a hundred thousand manifests."""


def _sorted_sets(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): item if type(item) in _LEAVES else _sorted_sets(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_sorted_sets(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _LEAVES else _sorted_sets(item) for item in value]
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return int(value)
    return value
