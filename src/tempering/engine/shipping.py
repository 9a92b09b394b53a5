"""What a unit needs that lies on the driver's disk, and how it is brought to a machine that does not share it.

A :class:`Parcel` is a file or a folder that a unit names: a model, data, a method of the user's own, a defended model. Its digest is that
of its content. The driver describes parcels and reads them piece by piece; a node has one :class:`Shelf`, where each is put once for all
workers.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tempering import organisms
from tempering.canonical import canonical_hash
from tempering.data.declarations import declaration
from tempering.data.fetching import SHIPPED, find, parcel_key
from tempering.data.members import Member
from tempering.data.members import members as joined_sets
from tempering.engine.defended import is_trained, place_of
from tempering.engine.files import TEMPORARY, flush_directory, flush_file
from tempering.engine.loading import load_records
from tempering.engine.units import Unit
from tempering.errors import UnusableModel
from tempering.model_choice import ModelChoice
from tempering.models import adapters, hub, references
from tempering.models.inspection import PICKLES
from tempering.models.references import Kind
from tempering.organisms.catalogue import shipped_location
from tempering.reading import exists
from tempering.relocation import HUB
from tempering.study import DataChoice

PIECE = 32 * 2**20
"""Bytes that are read and sent at once."""

DEFENDED = "defended:"
"""Before the name of a defended model's folder, in the key of its parcel."""


@dataclass(frozen=True)
class Parcel:
    """A file or a folder, by its content.

    Attributes:
        key: what the study names it by; see :func:`tempering.relocation.relocate`.
        name: what the file or folder is called.
        single: it is one file, not a folder.
        files: SHA-256 and bytes of every file, by its path within the folder.
        source: where it lies on the driver's disk; empty on a node.
    """

    key: str
    name: str
    single: bool
    files: dict[str, tuple[str, int]]
    source: Path = Path()

    @property
    def digest(self) -> str:
        """Sixty-four hexadecimal digits that name the content."""
        return canonical_hash({"name": self.name, "single": self.single, "files": self.files})

    def pieces(self, file: str) -> Iterator[bytes]:
        """The content of one of its files, as it lies on this machine's disk.

        Raises:
            UnusableModel: it is gone, or cannot be read.
        """
        path = self.source if self.single else self.source / file
        try:
            with path.open("rb") as stream:
                while piece := stream.read(PIECE):
                    yield piece
        except OSError as error:
            raise UnusableModel(f"cannot read {path}: {error.strerror or error}", "put it back, and resume the run") from error

    def as_json(self) -> dict[str, Any]:
        """As plain values for :meth:`from_json`; where it lies is nobody else's."""
        return {"key": self.key, "name": self.name, "single": self.single, "files": self.files}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Parcel:
        """Undo :meth:`as_json`.

        Raises:
            ValueError: a file would lie outside of its folder.
        """
        files = {name: (str(entry[0]), int(entry[1])) for name, entry in values["files"].items()}
        for name in (values["name"], *files):
            path = PurePosixPath(name)
            if not path.parts or path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name!r} is no name of a file in a parcel")
        return cls(values["key"], values["name"], values["single"], files)


def packed(key: str, source: Path, wanted: Callable[[Path], bool] = lambda path: True, *, name: str = "") -> Parcel:
    """Describe a file or a folder, whose files are read once for it.

    Args:
        key: what the study names it by.
        source: where it lies.
        wanted: which files of a folder belong to it; what is hidden never does.
        name: what to call it; what it is called here unless told.
    """
    single = source.is_file()
    name = name or (source.name if single else source.resolve().name)
    found = [source] if single else sorted(path for path in source.rglob("*") if path.is_file() and wanted(path))
    names = {path: name if single else path.relative_to(source).as_posix() for path in found}
    shown = {path: within for path, within in names.items() if single or not any(part.startswith(".") for part in within.split("/"))}
    return Parcel(key, name, single, {within: _described(path) for path, within in shown.items()}, source)


class Packer:
    """Knows the parcels of a run's units; each file is read and hashed once."""

    def __init__(self, models: Path) -> None:
        """Start with none.

        Args:
            models: folder of the defended models.
        """
        self._models = models
        self._known: dict[str, list[Parcel]] = {}

    def parcels(self, unit: Unit) -> list[Parcel]:
        """What a unit needs that the package does not bring along.

        Raises:
            UnusableModel: something of it is gone.
        """
        work, found = unit.work, list[Parcel]()
        for choice in (work.model, work.reference, work.base):
            if choice is not None:
                found += self._kept(f"model {choice.reference}", partial(_of_model, choice.reference, choice.trust_remote_code))
                if (template := choice.chat_template) is not None:
                    found += self._kept(f"template {template}", partial(_alone, str(template), template))
        if work.data.reference is not None:
            found += self._kept(f"data {work.data.reference}", partial(_of_data, work.data, work.model))
        for method in filter(None, (work.attack, work.defense, *work.evaluators)):
            for location in sorted(_own_files(method.model_dump(mode="json"))):
                found += self._kept(f"method {location}", partial(_alone, location, Path(location)))
        if unit.defended and is_trained(unit, self._models):
            place = place_of(unit, self._models)
            found += self._kept(f"defended {unit.defended}", partial(_alone, DEFENDED + place.name, place))
        return found

    def _kept(self, name: str, make: Callable[[], Iterator[Parcel]]) -> list[Parcel]:
        if name not in self._known:
            try:
                self._known[name] = list(make())
            except OSError as error:
                problem = f"cannot read {error.filename}: {error.strerror or error}"
                raise UnusableModel(problem, "put it back, and resume the run") from error
        return self._known[name]


class Shelf:
    """One folder of a node, where parcels are put down under their digests, once for all workers of a run."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, for this user alone.

        Raises:
            OSError: it cannot be made, or is somebody else's.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        if folder.is_symlink() or about.st_uid != os.getuid():
            raise PermissionError(f"{folder} is somebody else's")
        self.folder = folder

    @property
    def models(self) -> Path:
        """Folder of the defended models, as workers of this node see it."""
        return self.folder / "models"

    def put(self, parcel: Parcel, pieces: Callable[[str], Iterable[bytes]]) -> Path:
        """Where a parcel lies on this node, brought here first where it does not yet.

        Args:
            parcel: what to bring.
            pieces: the content of each of its files.

        Raises:
            UnusableModel: what arrives is not what was sent.
        """
        place = self.folder / parcel.digest
        with self._alone():
            if not place.is_dir():
                aside = self.folder / f".{parcel.digest}{TEMPORARY}"
                shutil.rmtree(aside, ignore_errors=True)
                (aside / parcel.name).parent.mkdir(parents=True)
                for name, (sha256, _) in parcel.files.items():
                    path = aside / name if parcel.single else aside / parcel.name / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _receive(path, sha256, pieces(name))
                aside.rename(place)
            lies = place / parcel.name
            if parcel.key.startswith(DEFENDED):
                self._offer(lies, parcel)
        return lies

    def _offer(self, lies: Path, parcel: Parcel) -> None:
        """Show a defended model to the workers under its name, unless the very same was trained on this node."""
        shown = self.models / parcel.key.removeprefix(DEFENDED)
        if shown.exists() and not shown.is_symlink() and packed(parcel.key, shown).files == parcel.files:
            return
        self.models.mkdir(exist_ok=True)
        if shown.is_symlink():
            shown.unlink()
        elif shown.exists():
            shutil.rmtree(shown)
        shown.symlink_to(lies, target_is_directory=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Arrival:
    """A defended model that was trained elsewhere, on its way into the run directory: there whole or not at all."""

    def __init__(self, parcel: Parcel, models: Path) -> None:
        """Make room beside its place.

        Args:
            parcel: the model.
            models: folder of the defended models.
        """
        models.mkdir(parents=True, exist_ok=True)
        self._parcel, self._place = parcel, models / parcel.key.removeprefix(DEFENDED)
        self._aside = models / f".{self._place.name}.{os.getpid()}{TEMPORARY}"
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir()

    def add(self, file: str, piece: bytes) -> None:
        """Write the next piece of a file."""
        if file not in self._parcel.files:
            raise ValueError(f"{file!r} is no file of this parcel")
        with (self._aside / file).open("ab") as stream:
            stream.write(piece)

    def settle(self) -> Path:
        """Put the model into place, or leave the one that is there already.

        Raises:
            UnusableModel: what has arrived is not what was sent.
        """
        try:
            for name, (sha256, _) in self._parcel.files.items():
                path = self._aside / name
                path.touch()  # of a file without content no piece has come
                flush_file(path)
                _check(path, _described(path)[0], sha256)
            if not self._place.exists():
                self._aside.rename(self._place)
                flush_directory(self._place.parent)
        finally:
            self.give_up()
        return self._place

    def give_up(self) -> None:
        """Remove what has arrived so far."""
        shutil.rmtree(self._aside, ignore_errors=True)


def pinned(unit: Unit) -> Unit:
    """The unit with the type of device it was planned for on every model, so that a machine with other devices computes the same.

    A number of a device says where it was on the driver's machine, so that goes.
    """
    work = unit.work
    choices = {"model": work.model, "reference": work.reference, "base": work.base}
    placed = {name: choice.model_copy(update={"device": work.device}) for name, choice in choices.items() if choice is not None}
    return replace(unit, work=work.model_copy(update=placed))


def _alone(key: str, source: Path) -> Iterator[Parcel]:
    yield packed(key, source)


def _of_data(data: DataChoice, model: ModelChoice) -> Iterator[Parcel]:
    """The files of every set that a study names, or is given beside those: a worker fetches none of the hub's."""
    named = [*joined_sets(data.reference or "")]
    if any(member.name for member in named):
        origin = load_records(data, model).provenance
        companion = origin.companion if origin is not None else ""
        named += [Member(companion, companion)] if companion else []
    for member in named:
        if member.name:
            found = find(member, declaration(member.name))
            if found.revision != SHIPPED:
                wanted = frozenset(found.files.values())
                inside = partial(_lies_in, wanted, found.saved)
                yield packed(parcel_key(member), found.root, inside, name=found.revision)
        elif not organisms.is_organism(member.reference):
            yield packed(member.reference, Path(member.reference).expanduser())


def _lies_in(wanted: frozenset[Path], whole: bool, file: Path) -> bool:
    return whole or file in wanted


def _of_model(reference: str, trusted: bool, key: str = "", *, local_only: bool = False) -> Iterator[Parcel]:
    """The files of a model; those of an adapter's base too, which a local adapter does not have fetched."""
    source = references.resolve(reference)
    key, path = key or reference, source.path
    if source.kind is Kind.HUB:
        key, path = (
            HUB + reference,
            _fetched(source, trusted, local_only),
        )
    if organisms.is_organism(reference) and path == shipped_location(organisms.parse_reference(reference)):
        return
    yield packed(key, path, lambda file: _belongs_to_model(file, path, trusted), name=path.name if source.kind is Kind.HUB else "")
    if path.is_dir() and references.kind_of(path, reference) is Kind.ADAPTER:
        base = adapters.base_reference(path, reference)
        named = json.loads((path / adapters.CONFIG).read_bytes())["base_model_name_or_path"]
        yield from _of_model(base, trusted, named if exists(Path(base)) else "", local_only=not hub.is_cached(path.resolve()))


def _fetched(source: references.Source, trusted: bool, local_only: bool) -> Path:
    return hub.fetch(source.hub_name, source.revision, source.reference, trust_remote_code=trusted, local_only=local_only)[0]


def _belongs_to_model(file: Path, folder: Path, trusted: bool) -> bool:
    """Not what lies in folders within it, which are other formats and copies; no programs either, unless they are wanted."""
    return file.parent == folder and not file.name.endswith((*PICKLES, ".onnx")) and (trusted or file.suffix != ".py")


def _own_files(value: Any) -> set[str]:
    """Every file that a method, or one that its settings name, is taken from."""
    if isinstance(value, dict):
        return set[str]().union(*(_own_files(item) for item in value.values()))
    if isinstance(value, (list, tuple)):
        return set[str]().union(*(_own_files(item) for item in value))
    location = value.rpartition(":")[0] if isinstance(value, str) and ".py:" in value else ""
    return {location} if location and Path(location).is_file() else set()


def _described(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest, path.stat().st_size


def _receive(path: Path, sha256: str, pieces: Iterable[bytes]) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for piece in pieces:
            digest.update(piece)
            stream.write(piece)
    _check(path, digest.hexdigest(), sha256)


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise UnusableModel(f"{path.name} has changed since the run was planned, or on its way", "put it back, and resume the run")
