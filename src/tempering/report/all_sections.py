"""The sections of a report that follow its prices, in the order of the page."""

from __future__ import annotations

from tempering.report.agreement_section import agreement_section
from tempering.report.capability_section import capability_section
from tempering.report.envelope_section import envelope_section
from tempering.report.frontier_section import frontier_section
from tempering.report.judges_section import judges_section
from tempering.report.population_section import population_section
from tempering.report.scaling_section import scaling_section
from tempering.report.searching import search_section
from tempering.report.section import Maker
from tempering.report.sureness_section import sureness_section

SECTIONS: tuple[Maker, ...] = (
    frontier_section,
    capability_section,
    population_section,
    envelope_section,
    search_section,
    sureness_section,
    agreement_section,
    scaling_section,
    judges_section,
)
"""A new one joins here."""
