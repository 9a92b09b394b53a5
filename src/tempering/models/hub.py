"""Fetches a model from the Hugging Face hub, or from its cache on this machine; the only place here that asks the network."""

from __future__ import annotations

import errno
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from tempering.errors import UnusableModel, causes
from tempering.models.inspection import PICKLES, pickle_refusal
from tempering.relocation import HUB, located

_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_UNWANTED = ["*/*", "consolidated*", "*.onnx*"]  # folders hold other formats and copies


def fetch(
    name: str, revision: str | None, reference: str, *, trust_remote_code: bool = False, local_only: bool = False
) -> tuple[Path, str]:
    """Bring a repository's safetensors, configuration and tokenizer into the hub's cache.

    With ``HF_HUB_OFFLINE`` set, or without a network, only what the cache holds is used.

    Args:
        name: ``org/name``.
        revision: branch, tag or commit; ``None`` takes the default branch.
        reference: what the user wrote, for messages.
        trust_remote_code: also fetch Python files, which are otherwise left where they are.
        local_only: take what the cache holds, and ask nobody.

    Returns:
        The directory, and the commit that it holds.

    Raises:
        UnusableModel: no such repository or revision, no access, no network and not cached, or pickles only.
    """
    if (brought := located(HUB + reference)) is not None:
        return brought, brought.name
    wanted = [*_WANTED, "*.py"] if trust_remote_code else _WANTED
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED, local_files_only=local_only
            )
        )
    except Exception as error:  # the client's own errors, those of its HTTP library, and the disk's
        if local_only and any(isinstance(link, errors.LocalEntryNotFoundError) for link in causes(error)):
            raise UnusableModel(
                f"it names the hub's {reference}, which the hub's cache does not hold, and no network is used unless asked",
                f"fetch it first: hf download {name}",
            ) from error
        raise _explain(error, name, revision, reference) from error
    if not local_only and not any(folder.glob("*.safetensors")):
        _refuse_pickles(name, revision, reference)
    return folder, folder.name


def is_cached(directory: Path) -> bool:
    """Whether a directory is one of the hub's cache, so that the user has asked for what lies there by its hub id."""
    return directory.is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


def _refuse_pickles(name: str, revision: str | None, reference: str) -> None:
    """Say so, where the repository has weights, only not as safetensors; silent where the hub cannot be asked."""
    try:
        files = huggingface_hub.HfApi().list_repo_files(name, revision=revision)
    except Exception:  # a better message is all that is at stake
        return
    pickles = sorted(file for file in files if file.endswith(PICKLES) and "/" not in file)
    if pickles:
        raise pickle_refusal(pickles, reference)


def _explain(error: Exception, name: str, revision: str | None, reference: str) -> UnusableModel:
    """What went wrong, and what to do; the client wraps one error in another, so all of them are looked at."""
    chain = tuple(causes(error))

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return UnusableModel(
            f"the disk is full: {name} cannot be kept in {constants.HF_HUB_CACHE}", "make room, or set HF_HOME to a folder elsewhere"
        )
    if is_a(errors.GatedRepoError):
        return UnusableModel(
            f"{reference} is gated on the hub", f"accept its terms at https://huggingface.co/{name} and log in: hf auth login"
        )
    if is_a(errors.RevisionNotFoundError):
        return UnusableModel(f"{name} has no revision {revision!r} on the hub", "give a branch, tag or commit that exists")
    if is_a(errors.RepositoryNotFoundError):
        return UnusableModel(
            f"there is neither a path {reference!r} nor a hub model {name!r} that you may read",
            "check the spelling, or log in: hf auth login",
        )
    if is_a(errors.HFValidationError):
        return UnusableModel(f"there is no path {reference!r}, and it is no hub id either", "write org/name@revision")
    if constants.HF_HUB_OFFLINE or is_a(errors.OfflineModeIsEnabled):
        return UnusableModel(
            f"there is no path {reference!r}, and the hub's cache does not hold {name}",
            "HF_HUB_OFFLINE is set: unset it, or give a directory",
        )
    if is_a(errors.LocalEntryNotFoundError):
        return UnusableModel(
            f"there is no path {reference!r}, and the hub cannot be reached to fetch {name}", "connect to the network, or give a directory"
        )
    return UnusableModel(f"cannot fetch {name} from the hub: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """The first line of a library's message, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
