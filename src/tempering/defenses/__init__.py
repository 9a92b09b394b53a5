"""Defences, one file each: what raises the price of stripping a safeguard."""

from tempering.defenses._contract import Claimed, Defense, Material
from tempering.defenses._data import DEFAULT_REFUSALS, check_words, refused, retained, to_refuse
from tempering.defenses._settings import DefenseSettings, DefenseTraining

__all__ = [
    "DEFAULT_REFUSALS",
    "Claimed",
    "Defense",
    "DefenseSettings",
    "DefenseTraining",
    "Material",
    "check_words",
    "refused",
    "retained",
    "to_refuse",
]
