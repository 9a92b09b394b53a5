"""The nursery: grows organisms by their recipes, with the one training loop."""

from tempering.nursery.grow import grow

__all__ = ["grow"]
