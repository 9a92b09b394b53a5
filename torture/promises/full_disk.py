"""A disk that is full from some operation on ends a run in one line, and a resumed one goes on from what was committed."""

from __future__ import annotations

from pathlib import Path

from torture.promise import Mutation, Promise, Tally
from torture.promises._faults import chains, spread, undisturbed
from torture.promises._operations import ADDING


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    found, _ = undisturbed(folder, "whole")
    found = [moment for moment in found if moment[0] in ADDING]
    rust = [moment for moment in found if moment[0] in ("weights", "tokenizer")]
    short = {*spread(found, 10), *rust[:1], *rust[-2:]}
    chains(folder, "whole", "full", [moment for moment in found if long or moment in short], tally, lambda end: end.refused)


PROMISE = Promise(
    name="full-disk",
    group="Nothing lost",
    sentence=(
        "A disk that is full from any operation on ends the run in one line; what was committed stands, and with space again it goes on "
        "to the same tables."
    ),
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/files.py",
            """    except OSError as error:
        again =""",
            """    except FileNotFoundError as error:
        again =""",
            "what the system says of a full disk ends the run in a traceback",
        ),
    ),
)
