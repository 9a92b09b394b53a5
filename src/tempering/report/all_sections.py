"""The sections of a report that follow its prices, in the order of the page."""

from __future__ import annotations

from tempering.report.envelope_section import envelope_section
from tempering.report.population_section import population_section
from tempering.report.searching import search_section
from tempering.report.section import Maker

SECTIONS: tuple[Maker, ...] = (search_section, population_section, envelope_section)
"""A new one joins here."""
