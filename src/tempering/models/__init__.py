"""Models: from a reference to a loaded target, with its digest."""

from tempering.models.loading import load
from tempering.models.target import Target

__all__ = ["Target", "load"]
