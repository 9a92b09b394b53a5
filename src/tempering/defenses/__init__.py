"""Defences, one file each: what raises the price of stripping a safeguard."""

from tempering.defenses._contract import Defense, Material

__all__ = ["Defense", "Material"]
