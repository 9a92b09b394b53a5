"""Makes the site of the documentation out of ``docs/``, the docstrings and the pages at the root of the repository."""
