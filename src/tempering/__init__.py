"""Tempering: what it costs to strip the safeguards from an open-weight language model."""

__version__ = "0.1.0"
