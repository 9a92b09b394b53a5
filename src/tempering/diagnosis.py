"""``temper doctor``: what this machine can run, and what to install for more. No network is asked unless that is wanted."""

from __future__ import annotations

import os
import shutil
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

SCHEMA = 1
_HEADROOM = 0.9
"""Share of free memory that an audit may be reckoned to take; the allocator and the libraries take the rest."""

_FOR_OURSELVES = frozenset({"dev", "release"})
"""Extras that nobody needs who only uses the package."""


def diagnose(*, online: bool = False) -> dict[str, Any]:
    """What there is on this machine.

    Args:
        online: ask the hub whether it answers, and whether it knows the user.

    Returns:
        JSON values: ``machine`` (as a run records it), ``devices`` (``name``, ``memory_bytes``, ``free_bytes``, ``bfloat16``: whether the
        hardware has it, ``speed``: FLOP/s of a matrix product by type), ``sizes`` (bytes that audits of models of usual sizes take, and
        whether they fit), ``disk``, ``hub``, ``extras`` and ``advice`` (whole sentences).
    """
    from tempering.engine.environment import describe_environment

    devices = _devices()
    extras = installed_extras()
    document = {
        "schema": SCHEMA,
        "machine": describe_environment(),
        "devices": devices,
        "sizes": _sizes(max(device["free_bytes"] for device in devices)),
        "disk": _disk(),
        "hub": _hub(online),
        "extras": extras,
    }
    return document | {"advice": _advice(document)}


def _devices() -> list[dict[str, Any]]:
    """The accelerators, or the processor where there is none."""
    import torch

    from tempering.engine.environment import available_memory, describe_environment

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, whole = torch.cuda.mem_get_info(number)
        has = torch.cuda.get_device_capability(number) >= (8, 0)
        found.append(_device(f"cuda:{number}", torch.cuda.get_device_name(number), whole, free, has))
    if found:
        return found
    about = describe_environment()
    memory = available_memory()
    if torch.backends.mps.is_available():
        return [_device("mps", "Apple MPS", about["memory_gib"] << 30, memory, True)]
    return [_device("cpu", about["cpu"], about["memory_gib"] << 30, memory, _cpu_has_bfloat16())]


def _device(place: str, name: str, whole: int, free: int, has: bool) -> dict[str, Any]:
    return {
        "device": place,
        "name": name,
        "memory_bytes": int(whole),
        "free_bytes": int(free),
        "bfloat16": has,
        "speed": {dtype: measured_speed(place, dtype) for dtype in ("float32", "bfloat16")},
    }


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; one that does not is asked to slowly."""
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith(("flags", "Features"))
        )
    except (OSError, StopIteration):
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def measured_speed(place: str, dtype: str, seconds: float = 0.3) -> float:
    """FLOP/s of a matrix product, measured in a moment; what a training reaches is a fraction of it.

    Args:
        place: the device.
        dtype: ``float32`` or ``bfloat16``.
        seconds: to measure for.
    """
    import torch

    device, edge = torch.device(place), 512 if place == "cpu" else 4096
    left = torch.randn(edge, edge, device=device).to(getattr(torch, dtype))

    def done() -> None:
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    done()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done()
        count += 1
    return 2.0 * edge**3 * count / (time.perf_counter() - started)


def _sizes(free: int) -> list[dict[str, Any]]:
    """What audits of models of usual sizes take, and whether the freest device has it."""
    from tempering.training.shapes import SHAPES, size_needs

    rows = []
    for shape in SHAPES:
        need = size_needs(shape)
        row: dict[str, Any] = {"size": shape.name, "parameters": need.parameters}
        for way in ("surgery", "lora", "full"):
            needed = getattr(need, way)
            row[way] = {"bytes": needed, "fits": needed <= free * _HEADROOM}
        rows.append(row)
    return rows


def _disk() -> dict[str, Any]:
    """Where downloads and runs go, and how much is free there."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    return {"runs_free_bytes": _free(Path.cwd()), "hub_cache": str(cache), "hub_cache_free_bytes": _free(cache)}


def _free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _hub(online: bool) -> dict[str, Any]:
    """What is known of the hub; ``reachable`` and ``known`` are ``None`` where nobody was asked."""
    import huggingface_hub
    from huggingface_hub import constants

    about: dict[str, Any] = {
        "endpoint": constants.ENDPOINT,
        "offline": bool(constants.HF_HUB_OFFLINE),
        "token": huggingface_hub.get_token() is not None,
        "reachable": None,
        "known": None,
        "problem": None,
    }
    if not online:
        return about
    from huggingface_hub.errors import HfHubHTTPError

    from tempering.models.hub import one_line
    from tempering.redaction import redacted

    try:
        huggingface_hub.HfApi().whoami()
    except HfHubHTTPError as error:  # it answered
        return about | {"reachable": error.response.status_code < 500, "known": False, "problem": redacted(one_line(error))}
    except huggingface_hub.errors.LocalTokenNotFoundError:
        return about | _reached()
    except Exception as error:  # whatever the client's HTTP library says where nothing answers
        return about | {"reachable": False, "problem": redacted(one_line(error))}
    return about | {"reachable": True, "known": True}


def _reached() -> dict[str, Any]:
    """Whether the hub answers somebody who is not logged in."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import get_session

    from tempering.models.hub import one_line

    try:
        status = get_session().head(constants.ENDPOINT, timeout=10).status_code
    except Exception as error:
        return {"reachable": False, "known": False, "problem": one_line(error)}
    return {"reachable": status < 500, "known": False, "problem": None}


def installed_extras() -> list[dict[str, Any]]:
    """The extras of the package: ``name``, ``installed``, ``missing`` (requirements that are not met) and how to ``install`` them."""
    wanted: dict[str, list[Requirement]] = {}
    for line in requires("tempering") or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.name == "tempering":
            continue
        for extra in _named(line):
            if extra not in _FOR_OURSELVES and requirement.marker.evaluate({"extra": extra}):
                wanted.setdefault(extra, []).append(requirement)
    rows = []
    for name, requirements in sorted(wanted.items()):
        missing = [f"{each.name}{each.specifier}" for each in requirements if not is_met(each)]
        rows.append({"name": name, "installed": not missing, "missing": missing, "install": f'pip install "tempering[{name}]"'})
    return rows


def _named(line: str) -> list[str]:
    """The extras that a line of the package's metadata is for: ``ray>=2.40; extra == "ray"``."""
    return [part.split(quote)[1] for part in line.split("extra ==")[1:] for quote in ("'", '"') if quote in part][:1]


def is_met(requirement: Requirement) -> bool:
    """Whether a package is there in a version that will do."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _advice(document: dict[str, Any]) -> list[str]:
    """What follows from it, in whole sentences, the most useful first."""
    lines = []
    fitting = [row["size"] for row in document["sizes"] if row["lora"]["fits"]]
    whole = [row["size"] for row in document["sizes"] if row["full"]["fits"]]
    if fitting:
        by_all = f", and by full fine-tuning up to {whole[-1]}" if whole else ", and none by full fine-tuning"
        lines.append(f"Models up to {fitting[-1]} can be audited here by LoRA{by_all}.")
    else:
        lines.append("No model of a usual size can be fine-tuned here; the embedded organisms can: temper audit.")
    first = document["devices"][0]
    if first["device"] == "cpu":
        lines.append("There is no accelerator that torch knows; models beyond a few hundred million weights take hours a run.")
        faster = first["speed"]["bfloat16"] > 1.2 * first["speed"]["float32"]
        lines.append(
            f"bfloat16 is {'faster than float32 here: --dtype bfloat16' if faster else 'no faster than float32 here: --dtype float32'}."
        )
    elif not first["bfloat16"]:
        lines.append("The accelerator has no bfloat16 of its own: --dtype float16 or float32.")
    hub = document["hub"]
    if hub["offline"]:
        lines.append("HF_HUB_OFFLINE is set: only models that are on this machine can be used.")
    elif hub["reachable"] is False:
        lines.append(f"The hub cannot be reached at {hub['endpoint']}: give directories in place of hub names.")
    elif not hub["token"]:
        lines.append("Nobody is logged in to the hub, which gated models and temper push need: hf auth login.")
    if missing := [row["name"] for row in document["extras"] if not row["installed"]]:
        lines.append(f'Not installed: {", ".join(missing)}; for all of them: pip install "tempering[{",".join(missing)}]".')
    if os.environ.get("OMP_NUM_THREADS") == "1" and document["machine"]["cores"] > 1 and first["device"] == "cpu":
        lines.append(f"OMP_NUM_THREADS is 1, and there are {document['machine']['cores']} cores.")
    return lines
