"""The sections of a report that follow its prices, in the order of the page."""

from __future__ import annotations

from tempering.report.agreement_section import agreement_section
from tempering.report.scaling_section import scaling_section
from tempering.report.searching import search_section
from tempering.report.section import Maker
from tempering.report.sureness_section import sureness_section

SECTIONS: tuple[Maker, ...] = (search_section, sureness_section, agreement_section, scaling_section)
"""A new one joins here."""
