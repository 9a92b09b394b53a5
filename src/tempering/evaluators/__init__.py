"""Evaluators, one file each: what a checkpoint does on held-out prompts. They never see spend."""

from tempering.evaluators._contract import Evaluator, Subject, examine
from tempering.judges._judging import Verdict

__all__ = ["Evaluator", "Subject", "Verdict", "examine"]
