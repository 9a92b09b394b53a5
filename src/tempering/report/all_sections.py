"""The sections of a report that follow its prices, in the order of the page."""

from __future__ import annotations

from tempering.report.frontier_section import frontier_section
from tempering.report.searching import search_section
from tempering.report.section import Maker

SECTIONS: tuple[Maker, ...] = (frontier_section, search_section)
"""A new one joins here."""
