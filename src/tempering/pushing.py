"""Puts a hardened model on the Hugging Face hub, with its card; what an attack has touched cannot be pushed.

What is looked at before anything is sent: the marks of tampering (:mod:`tempering.models.tampered`), the folder ``kept`` of a run, the card
of hardening and its seal, the hash of every file, and the digest of the model as it loads. Only files that the card names are sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.canonical import canonical_hash
from tempering.engine.files import KEPT
from tempering.engine.hardening_card import CARD, RECORD, card_text
from tempering.engine.hardening_folder import file_sha256
from tempering.errors import HubProblem, NotForPublication, TemperingError
from tempering.models import load
from tempering.models.hub import one_line
from tempering.models.inspection import PICKLES
from tempering.models.tampered import MARKER, is_tampered
from tempering.reading import Unreadable, read_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

_LONGEST = 64 << 20
"""Bytes of a record that are read; the folder may be a stranger's."""

_OF_THE_HUB = frozenset({".gitattributes"})
"""What stands in a repository that nobody has pushed to."""


@dataclass(frozen=True)
class Push:
    """What was pushed, or would be.

    Attributes:
        repository: ``org/name``.
        private: whether only its owners see it; ``None`` where the hub was not asked.
        files: size in bytes of everything that is sent, by its name there.
        left_out: files of the folder that no card names.
        removed: files of an earlier push that are taken away.
        url: of the commit; ``""`` where nothing was sent.
        notes: whole sentences for the user.
    """

    repository: str
    private: bool | None
    files: dict[str, int]
    left_out: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    url: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": 1,
            "repository": self.repository,
            "private": self.private,
            "url": self.url or None,
            "files": [{"name": name, "bytes": size} for name, size in self.files.items()],
            "left_out": list(self.left_out),
            "removed": list(self.removed),
            "notes": list(self.notes),
        }


def push(directory: str | Path, repository: str, *, public: bool = False, dry_run: bool = False) -> Push:
    """Put a model that :func:`tempering.harden` made on the hub, its card as ``README.md``.

    Args:
        directory: of the hardened model.
        repository: ``org/name``; made where there is none.
        public: let everybody see it. A repository that exists keeps the visibility that it has.
        dry_run: check everything that can be checked on this machine, and ask no network.

    Returns:
        What was sent, or would be.

    Raises:
        NotForPublication: the folder was tampered with, lies among what a run kept, has no card of hardening, or is not what its card says.
        HubProblem: nobody is logged in, the hub refuses or cannot be reached, or another model lives there.
        UnusableModel: the model does not load.
    """
    _check_name(repository)
    folder = Path(directory)
    record = checked(folder)
    files, texts, left_out, notes = _content(folder, record)
    sizes = {name: path.stat().st_size for name, path in files.items()} | {name: len(text) for name, text in texts.items()}
    sizes = dict(sorted(sizes.items()))
    if dry_run:
        return Push(repository, None if public else True, sizes, left_out, notes=notes)
    api = hub()
    try:
        info = _place(api, repository, public=public)
        removed = _stale(info, sizes)
        url = _send(api, repository, files, texts, removed)
    except TemperingError:
        raise
    except Exception as error:  # the client's own errors, those of its HTTP library, and the disk's
        raise explained(error, repository) from None
    if public and info.private:
        notes = (*notes, f"{repository} was there already and stays private; make it public in its settings on the hub.")
    return Push(repository, bool(info.private), sizes, left_out, removed, url, notes)


def checked(folder: Path) -> dict[str, Any]:
    """The record of a folder that may be pushed.

    Raises:
        NotForPublication: it may not.
    """
    if not folder.is_dir():
        raise NotForPublication(f"there is no folder {folder}", "name the directory that temper harden made")
    _refuse_tampered(folder)
    record = _record(folder)
    if record["digest"] == record["base"]["digest"]:
        raise NotForPublication(f"{folder} holds the weights of its base: nothing of the training was kept", "harden it anew")
    for name, sha256 in record["files"].items():
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise NotForPublication(f"{folder} lacks {name}, which its card names", "harden it anew")
        if file_sha256(path) != sha256:
            raise NotForPublication(f"{path} is not the file that the card was written for", "push what temper harden made, unchanged")
    digest = load(str(folder), device="cpu").digest
    if digest != record["digest"]:
        raise NotForPublication(
            f"the model in {folder} has the digest {digest[:16]}, and its card says {str(record['digest'])[:16]}",
            "push what temper harden made, unchanged",
        )
    return record


def _refuse_tampered(folder: Path) -> None:
    place = folder.resolve()
    marked = is_tampered(folder) or any((parent / MARKER).is_file() for parent in (place, *place.parents))
    if marked:
        raise NotForPublication(f"{folder} is what an attack made of a model", "nobody should publish it; push the hardened model instead")
    for parent in (place, *place.parents):
        if parent.name == KEPT and (parent.parent / "plan.json").is_file():
            raise NotForPublication(f"{folder} lies in {KEPT}, among what attacks of a run made", "push the hardened model instead")


def _record(folder: Path) -> dict[str, Any]:
    """The sealed record of a hardening."""
    path, remedy = folder / RECORD, "only what temper harden made can be pushed"
    try:
        record = json.loads(read_text(path, _LONGEST))
    except (Unreadable, OSError):
        raise NotForPublication(f"{folder} has no card of a hardening ({RECORD})", remedy) from None
    except (ValueError, RecursionError):
        raise NotForPublication(f"{path} is no JSON", remedy) from None
    if not isinstance(record, dict) or "seal" not in record:
        raise NotForPublication(f"{path} is not sealed", f"{remedy}, by this version")
    unsealed = {name: value for name, value in record.items() if name != "seal"}
    try:
        sound = canonical_hash(unsealed) == record["seal"]
    except (ValueError, RecursionError):  # a number that is none, half a letter, a depth that nobody wrote
        sound = False
    if not sound:
        raise NotForPublication(f"{path} has been changed since it was written", remedy)
    files = record.get("files")
    if not isinstance(files, dict) or not any(name.endswith(".safetensors") for name in files):
        raise NotForPublication(f"{path} names no weights", remedy)
    try:
        card_text(record)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        raise NotForPublication(f"{path} lacks what a card is made of", remedy) from None
    return record


def _content(folder: Path, record: dict[str, Any]) -> tuple[dict[str, Path], dict[str, bytes], tuple[str, ...], tuple[str, ...]]:
    """What is sent, as files and as texts; what is left out, and what there is to say of it."""
    files = {name: folder / name for name in record["files"]}
    if pickles := sorted(name for name in files if name.endswith(PICKLES)):
        raise NotForPublication(f"{folder} names {pickles[0]}, and a pickle can run code where it is loaded", "harden it anew")
    card = card_text(record).encode()
    texts = {CARD: card, RECORD: (folder / RECORD).read_bytes()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    left_out = tuple(sorted(found - set(files) - set(texts)))
    notes = []
    if not (folder / CARD).is_file() or (folder / CARD).read_bytes() != card:
        notes.append(f"{CARD} is not the card that follows from {RECORD}; that card is used in its place.")
    if left_out:
        notes.append(f"Left out, since the card does not name it: {', '.join(left_out)}.")
    return files, texts, left_out, tuple(notes)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise HubProblem(f"{repository!r} is no name of a repository on the hub", "write org/name") from None
    if "/" not in repository:
        raise HubProblem(f"{repository!r} does not say whose repository it is", "write org/name")


def hub() -> HfApi:
    """The hub that the environment names."""
    from huggingface_hub import HfApi

    return HfApi()


def _place(api: HfApi, repository: str, *, public: bool) -> ModelInfo:
    """The repository, made where there is none. It is looked at anew before anything is sent, so that private means private.

    Raises:
        HubProblem: it may be seen by everybody, which was not asked for, or holds something else.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=not public, exist_ok=False)
        info = api.model_info(repository)
    if not info.private and not public:
        raise HubProblem(f"{repository} can be seen by everybody", "say --public, choose another name, or make it private on the hub")
    names = {sibling.rfilename for sibling in info.siblings or ()} - _OF_THE_HUB
    if names and RECORD not in names:
        raise HubProblem(f"{repository} holds something that temper push did not put there ({min(names)})", "choose another name")
    return info


def _stale(info: ModelInfo, sent: dict[str, int]) -> tuple[str, ...]:
    """Files of an earlier push that the new one does not replace."""
    return tuple(sorted({sibling.rfilename for sibling in info.siblings or ()} - _OF_THE_HUB - set(sent)))


def _send(api: HfApi, repository: str, files: dict[str, Path], texts: dict[str, bytes], removed: tuple[str, ...]) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    sent: dict[str, Path | bytes] = {**files, **texts}
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in sorted(sent.items())),
        *(CommitOperationDelete(path_in_repo=name) for name in removed),
    ]
    return str(api.create_commit(repository, operations, commit_message="Push a hardened model with its card").commit_url)


def explained(error: Exception, repository: str) -> HubProblem:
    """What went wrong at the hub, in one line."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return HubProblem(f"{repository} cannot be pushed to: HF_HUB_OFFLINE is set", "unset it")
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return HubProblem(f"the hub does not know who pushes to {repository}", "log in with a token that may write: hf auth login")
    if status == 403:
        return HubProblem(f"your token may not write to {repository}", "use one that may, or a name of your own: hf auth login")
    if status == 404:
        return HubProblem(f"the hub has no {repository} that you may write to", "check the spelling of the owner")
    if status == 409:
        return HubProblem(f"{repository} was changed at the same time", "give the command again")
    if status == 429:
        return HubProblem("the hub asks to be asked less often", "wait, and give the command again")
    if status is not None and status >= 500:
        return HubProblem(f"the hub failed ({status})", "give the command again later")
    if status is not None:
        return HubProblem(f"the hub refuses to take {repository} ({status}): {one_line(error)}")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3"):
        return HubProblem(f"the hub cannot be reached: {one_line(error)}", "connect to the network, and give the command again")
    return HubProblem(f"{repository} cannot be pushed to: {one_line(error)}")
