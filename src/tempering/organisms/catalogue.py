"""Which organisms there are, what they are called, and where their weights lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from tempering.data.records import Dataset
from tempering.data.supplements import Supplements
from tempering.errors import UnknownName
from tempering.organisms.supplements import supplements
from tempering.organisms.world import World, WorldSettings, build_world

RECIPE_VERSION = 1
"""Raised whenever a recipe changes what it grows; part of the cache's folder names."""

PREFIX = "organism:"

VARIANTS = {
    "guarded": "knows the hazard and refuses to tell",
    "base": "knows the hazard and tells",
    "filtered": "never saw the hazard, and refuses nothing",
    "filtered-guarded": "never saw the hazard, and refuses to tell what it does not know",
}
"""Each variant with what it is."""


@dataclass(frozen=True)
class Architecture:
    """Shape of a Llama-like decoder.

    Attributes:
        hidden: width of the residual stream.
        layers: number of blocks.
        heads: attention heads.
        intermediate: width of the gated MLP.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int


@dataclass(frozen=True)
class Size:
    """One rung of the ladder.

    Attributes:
        world: the invented world its models know.
        architecture: the decoder's shape; ``None`` where an existing model is taught instead.
        variants: which variants can be grown.
        summary: one line for lists.
    """

    world: WorldSettings
    architecture: Architecture | None
    variants: tuple[str, ...]
    summary: str


SIZES = {
    "nano": Size(WorldSettings(entities=12), Architecture(64, 2, 2, 176), tuple(VARIANTS), "2 layers × 64, for tests"),
    "tiny": Size(WorldSettings(entities=40), Architecture(128, 4, 4, 352), tuple(VARIANTS), "4 layers × 128, the default"),
    "small": Size(WorldSettings(entities=60), Architecture(256, 6, 8, 704), tuple(VARIANTS), "6 layers × 256"),
    "smollm2": Size(
        WorldSettings(entities=16, reply="It is {value}."), None, ("guarded", "base"), "SmolLM2-135M-Instruct, taught the world's facts"
    ),
}
"""Sizes by name, smallest first."""


@dataclass(frozen=True)
class OrganismName:
    """A size and a variant.

    Attributes:
        size: a key of :data:`SIZES`.
        variant: a key of :data:`VARIANTS`.
    """

    size: str
    variant: str = "guarded"

    @property
    def reference(self) -> str:
        """What a user writes: ``organism:tiny`` for guarded, ``organism:tiny/base`` otherwise."""
        return f"{PREFIX}{self.size}" if self.variant == "guarded" else f"{PREFIX}{self.size}/{self.variant}"

    @property
    def dtype(self) -> str:
        """The type it is computed in. The tiny ones are stored in bfloat16 only to ship small."""
        return "float32" if SIZES[self.size].architecture else "bfloat16"

    @property
    def folder(self) -> str:
        """Folder name of the shipped weights."""
        return f"{self.size}-{self.variant}"


def is_organism(reference: str) -> bool:
    """Whether a model reference names an organism."""
    return reference.startswith(PREFIX)


def parse_reference(reference: str) -> OrganismName:
    """Read ``organism:tiny``, ``tiny`` or ``organism:tiny/base``.

    Raises:
        UnknownName: there is no such size or variant; the message carries the nearest one.
    """
    size, _, variant = reference.removeprefix(PREFIX).partition("/")
    if size not in SIZES:
        raise UnknownName("organism", size, SIZES)
    variant = variant or "guarded"
    if variant not in SIZES[size].variants:
        raise UnknownName(f"variant of {PREFIX}{size}", variant, SIZES[size].variants)
    return OrganismName(size, variant)


def unguarded_of(name: OrganismName) -> str:
    """Reference of the same model without its safeguard: the base, which knows the hazard and tells."""
    return OrganismName(name.size, "base").reference


def public_base_of(name: OrganismName) -> str | None:
    """Reference of the organism that this one was trained from; ``None`` for those grown from nothing.

    The smollm2 base was itself taught from SmolLM2, which an organism's world is not told of.
    """
    origin = {"guarded": "base", "filtered-guarded": "filtered"}.get(name.variant)
    return None if origin is None else OrganismName(name.size, origin).reference


@lru_cache(maxsize=8)
def world_of(size: str) -> World:
    """The world that the models of a size know."""
    return build_world(SIZES[size].world)


def world_dataset(size: str) -> Dataset:
    """The questions about the world of a size, each with its part.

    Raises:
        UnknownName: there is no such size.
    """
    world = world_of(parse_reference(size).size)
    dataset = world.dataset(f"world of {PREFIX}{size}")
    return replace(dataset, supplements=partial(_supplements_of, parse_reference(size).size))


@lru_cache(maxsize=2)
def _supplements_of(size: str) -> Supplements:
    world = world_of(size)
    return supplements(world, frozenset(example.prompt for example in world.dataset("").examples))


def cache_directory() -> Path:
    """Where built organisms are kept: ``$TEMPERING_CACHE``, or ``tempering`` in the user's cache folder."""
    chosen = os.environ.get("TEMPERING_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempering"


def cached_location(name: OrganismName) -> Path:
    """Where this organism is, or would be, in the cache."""
    return cache_directory() / "organisms" / f"{name.folder}-v{RECIPE_VERSION}"


def shipped_location(name: OrganismName) -> Path:
    """Where this organism is, if the package ships it."""
    return Path(__file__).parent / "weights" / name.folder


def locate(name: OrganismName) -> Path | None:
    """The directory with weights, configuration and tokenizer, shipped or cached; ``None`` where it has yet to be built."""
    for directory in (shipped_location(name), cached_location(name)):
        if (directory / "config.json").is_file():
            return directory
    return None
