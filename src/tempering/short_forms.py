"""Methods with settings, written in one word: ``lm_eval:tasks=mmlu,gsm8k,limit=100``, ``mine.py:Mine:steps=3``."""

from __future__ import annotations

import re
from typing import Any

from tempering.errors import InvalidStudy

_WITH_SETTINGS = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*|.*?\.py:\w+):(?P<settings>[A-Za-z_]\w*=.*)", re.DOTALL)
_SETTING = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)


def parse_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Take a method's name and its settings apart.

    Settings are parted by commas. A part that sets nothing goes on with the value before it, which then is a list. Values are
    text, paths that end in ``.py`` among them; the method's ``Config`` makes numbers of them.

    Args:
        text: ``name``, ``path.py:Class``, or either with ``:setting=value,…``.

    Returns:
        The name, and the settings, empty where there are none.

    Raises:
        InvalidStudy: a setting stands twice, or has no value.
    """
    found = _WITH_SETTINGS.fullmatch(text.strip())
    if found is None:
        return text, {}
    settings: dict[str, list[str]] = {}
    values: list[str] = []
    for part in found["settings"].split(","):
        if setting := _SETTING.fullmatch(part):
            if setting["name"] in settings:
                raise InvalidStudy(f"{text!r} sets {setting['name']!r} twice", "give each setting one value")
            values = settings.setdefault(setting["name"], [])
            part = setting["value"]
        if not part.strip():
            raise InvalidStudy(f"{text!r} has a setting without a value", "write name:setting=value,setting=value")
        values.append(part.strip())
    return found["name"], {name: given[0] if len(given) == 1 else given for name, given in settings.items()}
