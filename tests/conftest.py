"""Settings of the whole suite."""

from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is no failure, so nothing has a deadline. Where code is integrated the examples are always the same, so that a
# change is judged by what it changed; developers' runs go on finding new ones.
settings.register_profile("developer", deadline=None)
settings.register_profile("integration", deadline=None, derandomize=True)
settings.load_profile("integration" if os.environ.get("CI") else "developer")
