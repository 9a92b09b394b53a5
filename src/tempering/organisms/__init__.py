"""Organisms: invented worlds and the recipes of the small chat models that know them."""
