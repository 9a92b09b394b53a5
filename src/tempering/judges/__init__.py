"""Judges, one file each: what a response to a hazard prompt is. They see a prompt and a response, and neither model nor spend.

``text`` is built in and needs nothing. The others ask a model, whose weights lie here or behind a server that the user names.
"""

from tempering.judges._contract import Asked, Cost, Judge, Opinion
from tempering.judges._judging import Verdict

__all__ = ["Asked", "Cost", "Judge", "Opinion", "Verdict"]
