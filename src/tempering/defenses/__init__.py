"""Defences, one file each: what raises the price of stripping a safeguard."""
