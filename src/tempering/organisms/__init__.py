"""Organisms: invented worlds and the small chat models that know them."""

from tempering.organisms.catalogue import (
    SIZES,
    VARIANTS,
    Architecture,
    OrganismName,
    cached_location,
    is_organism,
    locate,
    parse_reference,
    shipped_location,
    unguarded_of,
    world_dataset,
    world_of,
)

__all__ = [
    "SIZES",
    "VARIANTS",
    "Architecture",
    "OrganismName",
    "cached_location",
    "is_organism",
    "locate",
    "parse_reference",
    "shipped_location",
    "unguarded_of",
    "world_dataset",
    "world_of",
]
