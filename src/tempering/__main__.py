"""``python -m tempering`` is ``temper``."""

from tempering.cli import main

main()
