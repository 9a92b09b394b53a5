"""The built-in judge under the name it had before judges had a package of their own; new code imports :mod:`tempering.judges`."""

from tempering.judges._judging import Verdict, answers_of, judge, settled, share_answered_well

__all__ = ["Verdict", "answers_of", "judge", "settled", "share_answered_well"]
