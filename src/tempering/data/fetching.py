"""Where the files of a named set lie: a copy of the user's own, the hub's cache, or the hub; the only place that fetches data.

The hub is asked for exactly the declared files of one revision, by huggingface_hub alone: their paths and formats are declared, so the
package ``datasets``, which would run a builder over them and keep a second copy, has nothing to add.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tempering.data.declarations import FOLDER, NamedSet, is_commit
from tempering.data.members import Member
from tempering.errors import UnusableData, causes
from tempering.relocation import HUB, located

COPIES = "TEMPERING_DATA"
"""Environment variable: a folder of the user's own copies, each under the name of its set. It goes before the hub."""

LOCAL = "local"
"""The revision of a copy: nobody knows which one it is."""

SHIPPED = "shipped"
"""That of a set that ships with Tempering."""

SAVED = ("dataset_dict.json", "state.json")
"""Files that tell a folder which ``datasets.save_to_disk`` wrote."""

ENDINGS = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".json")
"""Of files that can be read."""


@dataclass(frozen=True)
class Found:
    """The files of a set, as they lie on this machine.

    Attributes:
        files: by the path that is declared; one folder for all where ``datasets`` saved it.
        revision: the commit, :data:`LOCAL` or :data:`SHIPPED`.
        root: the folder that holds them all.
    """

    files: dict[str, Path]
    revision: str
    root: Path

    @property
    def saved(self) -> bool:
        """Whether it is a copy that ``datasets`` saved."""
        return any((self.root / marker).is_file() for marker in SAVED)


def parcel_key(member: Member) -> str:
    """What the files of a named set are called on their way to another machine; see :func:`tempering.relocation.relocate`."""
    return f"{HUB}data {member.reference}"


def find(member: Member, declared: NamedSet) -> Found:
    """The files of a named set; those that are neither here nor in the hub's cache are fetched.

    Args:
        member: names the set, and a revision if any. A named revision passes by the user's own copies.
        declared: what is declared of it.

    Raises:
        UnusableData: a file is missing from a copy, or cannot be had from the hub; the message says which, and what to do.
    """
    if declared.repository is None:
        return Found({file.path: FOLDER / file.path for file in declared.files}, SHIPPED, FOLDER)
    if (brought := located(parcel_key(member))) is not None:
        return _in_folder(member.name, brought, declared, brought.name)
    if not member.revision and (copy := _copy(member.name, declared)) is not None:
        return copy
    return _of_hub(member, declared, declared.repository)


def _copy(name: str, declared: NamedSet) -> Found | None:
    """The user's own copy of a set, where there is one."""
    if not (folder := os.environ.get(COPIES, "").strip()):
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UnusableData(f"{COPIES} names {folder}, which is no folder", "name the one that holds your copies, or unset it")
    if (root / name).is_dir():
        return _in_folder(name, root / name, declared, LOCAL)
    single = [root / f"{name}{ending}" for ending in ENDINGS if (root / f"{name}{ending}").is_file()]
    if not single:
        return None
    paths = {file.path for file in declared.files}
    if len(paths) > 1:
        raise UnusableData(
            f"{single[0]} is one file, and {name} has {len(paths)}", f"put them into a folder {root / name}: {', '.join(sorted(paths))}"
        )
    return Found({paths.pop(): single[0]}, LOCAL, root)


def _in_folder(name: str, folder: Path, declared: NamedSet, revision: str) -> Found:
    """The declared files in a folder: where they are declared, by their own names, by their splits', or the only one there is."""
    if any((folder / marker).is_file() for marker in SAVED):
        return Found({file.path: folder for file in declared.files}, revision, folder)
    paths = {file.path: file.split for file in declared.files}
    found = {path: _one_of(_places(folder, path, split)) for path, split in paths.items()}
    if len(found) == 1 and None in found.values():
        present = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(ENDINGS)]
        found = dict.fromkeys(found, present[0] if len(present) == 1 else None)
    files = {path: place for path, place in found.items() if place is not None}
    if missing := sorted(found.keys() - files.keys()):
        raise UnusableData(f"{folder} lacks {missing[0]} of {name}", "put it there as it lies on the hub, or remove the folder")
    return Found(files, revision, folder)


def _places(folder: Path, path: str, split: str) -> Iterator[Path]:
    yield folder / path
    yield folder / Path(path).name
    yield from (folder / f"{split}{ending}" for ending in ENDINGS)


def _one_of(places: Iterator[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _of_hub(member: Member, declared: NamedSet, repository: str) -> Found:
    import huggingface_hub  # here, because most audits have no need of it

    revision = member.revision or declared.revision
    files: dict[str, Path] = {}
    for path in dict.fromkeys(file.path for file in declared.files):
        try:
            files[path] = Path(huggingface_hub.hf_hub_download(repository, path, repo_type="dataset", revision=revision))
        except Exception as error:  # the client's own errors, those of its HTTP library, and the disk's
            raise _explained(error, member.name, repository, revision, path) from error
        revision = _commit_of(files[path], path) or revision  # all files of the commit that a branch led to first
    root = files[path].parents[path.count("/")]
    return Found(files, revision, root)


def _commit_of(file: Path, path: str) -> str:
    """The commit that a file of the hub's cache is of, told by its folder."""
    name = file.parents[path.count("/")].name
    return name if is_commit(name) else ""


def _explained(error: Exception, name: str, repository: str, revision: str, path: str) -> UnusableData:
    """What went wrong, and what to do; the client wraps one error in another, so all of them are looked at."""
    from huggingface_hub import constants, errors

    chain = tuple(causes(error))

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    page = f"https://huggingface.co/datasets/{repository}"
    own = f"put a copy into the folder that {COPIES} names"
    if any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return UnusableData(
            f"the disk is full: {name} cannot be kept in {constants.HF_HUB_CACHE}", "make room, or set HF_HOME to a folder elsewhere"
        )
    if is_a(errors.GatedRepoError):
        return UnusableData(f"{name} is gated on the hub", f"accept its terms at {page} and log in (hf auth login), or {own}")
    if is_a(errors.RevisionNotFoundError):
        return UnusableData(f"{repository} has no revision {revision!r} on the hub", f"name one that it has: {name}@main, or {own}")
    if is_a(errors.RepositoryNotFoundError):
        return UnusableData(f"the hub has no data set {repository} that you may read", f"log in (hf auth login), or {own}")
    if is_a(errors.RemoteEntryNotFoundError):
        return UnusableData(
            f"{repository} has no file {path} at revision {revision!r}", f"name a revision that has it, as {name}@COMMIT, or {own}"
        )
    if constants.HF_HUB_OFFLINE or is_a(errors.OfflineModeIsEnabled):
        return UnusableData(f"the hub's cache does not hold {name} ({repository})", f"HF_HUB_OFFLINE is set: unset it once, or {own}")
    answered = next((link.response.status_code for link in chain if isinstance(link, errors.HfHubHTTPError) and link.response), None)
    if answered is not None:
        return UnusableData(f"the hub answers {answered} when asked for {name} ({repository})", f"try again later, or {own}")
    if is_a(errors.LocalEntryNotFoundError):
        return UnusableData(f"the hub cannot be reached to fetch {name} ({repository})", f"connect to the network, or {own}")
    told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UnusableData(f"cannot fetch {name} ({repository}): {told[:300]}", own)
