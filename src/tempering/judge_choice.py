"""A judge as a study names it: one line on the command line, or a name with settings in a file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from tempering.settings import Settings
from tempering.short_forms import parse_settings


class JudgeChoice(Settings):
    """One judge of responses to hazard prompts, by its registry name, with the settings that differ from its defaults.

    In one line it is ``NAME``, or ``NAME:setting=value,setting=value``; hyphens in the name stand for underscores, and ``label`` among the
    settings is the label.

    Attributes:
        name: the registry's name, or ``path.py:Class``.
        config: settings that differ from the defaults.
        label: what columns and tables call it; its name where it has none.
    """

    name: Annotated[str, Field(min_length=1)]
    config: dict[str, Any] = Field(default_factory=dict)
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_one_line(cls, value: object) -> object:
        return _read_judge(value) if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _underscored(cls, value: str) -> str:
        return value if ".py:" in value else value.strip().replace("-", "_")

    @property
    def title(self) -> str:
        """What columns and tables call it."""
        return self.label or (self.name.rpartition(":")[2])


def _read_judge(text: str) -> dict[str, Any]:
    name, config = parse_settings(text.strip())
    label = config.pop("label", None)
    return {"name": name, "config": config, "label": label}
