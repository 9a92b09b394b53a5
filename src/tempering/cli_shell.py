"""What every command shares beside its own flags: settings from a file and the environment, how much is said, and examples in its help.

One precedence for every flag: what is said on the command line, then the environment (``TEMPERING_<COMMAND>_<FLAG>``), then the file of
``--settings``, then the default. What is consented to (running code, keeping what attacks make, publishing) is said on the command line of
the very command, or not at all.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tempering.cli_examples import epilog_of
from tempering.cli_flags import gathered
from tempering.cli_options import CONSENT, SHELL, loudness, option
from tempering.errors import InvalidStudy, UnknownName

PREFIX = "TEMPERING"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_OURS = ("settings", "quiet", "verbose", "help")
_log = logging.getLogger(__name__)


class Shell(typer.Typer):
    """An application whose every command has these habits, and examples in its help."""

    def command(  # type: ignore[override]
        self, name: str | None = None, **more: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a command; its groups of flags are spread out, see :func:`tempering.cli_flags.gathered`."""
        register = super().command

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            called = name or function.__name__.replace("_", "-")
            above = self.info.name if isinstance(self.info.name, str) and self.info.name != "temper" else ""
            more["epilog"] = epilog_of(f"{above} {called}".strip(), more.get("epilog"))
            register(called, **more)(_with_habits(gathered(function)))
            return function

        return add


def _with_habits(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the shared flags at the end of its signature; it is not told of them."""

    @functools.wraps(command)
    def called(**given: Any) -> None:
        for line in loudness.sources:
            _log.info("%s", line)
        command(**{name: value for name, value in given.items() if name not in _OURS})

    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("settings", None, SettingsOption),
            ("quiet", False, QuietOption),
            ("verbose", False, VerboseOption),
        )
    ]
    signature = inspect.signature(command)
    called.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *own])  # type: ignore[attr-defined]
    called.__annotations__ = {**command.__annotations__, **{about.name: about.annotation for about in own}}
    return called


def _take_settings(context: typer.Context, file: Path | None) -> None:
    """Make the file's and the environment's values the defaults of the command that is being parsed."""
    if context.resilient_parsing:
        return
    known = {_key(parameter): parameter for parameter in context.command.params}
    prefix = _prefix(context)
    if file is None and (named := os.environ.get(f"{prefix}_SETTINGS")):
        file = Path(named)
    values: dict[str, Any] = {}
    sources: list[str] = []
    for origin, found in ((str(file), _of_file(file)), ("the environment", _of_environment(prefix))):
        for key, value in found.items():
            written = key if origin == str(file) else f"{prefix}_{key.upper()}"
            parameter = _settable(key, known, written, origin)
            values[str(parameter.name)] = _as_given(value, parameter, f"{written} of {origin}")
            sources = [line for line in sources if not line.startswith(f"{key} = ")] + [f"{key} = {value}, from {origin}"]
    loudness.sources = tuple(sources)
    context.default_map = values


def _key(parameter: Any) -> str:
    """What a file calls a flag: ``--threat-model`` is ``threat_model``; an argument goes by its name."""
    flags = [flag for flag in getattr(parameter, "opts", ()) if flag.startswith("--")]
    return (flags[0][2:] if flags else str(parameter.name)).replace("-", "_")


def _prefix(context: typer.Context) -> str:
    """``TEMPERING_AUDIT``, ``TEMPERING_ORGANISM_BUILD``."""
    names: list[str] = []
    at: Any = context
    while at is not None and at.parent is not None:
        names.append(str(at.info_name))
        at = at.parent
    return "_".join([PREFIX, *reversed(names)]).replace("-", "_").upper()


def _of_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    from tempering.study_file import load_settings

    return {str(key).replace("-", "_"): value for key, value in load_settings(file).items()}


def _of_environment(prefix: str) -> dict[str, str]:
    start, own = f"{prefix}_", f"{prefix}_SETTINGS"
    return {name[len(start) :].lower(): value for name, value in os.environ.items() if name.startswith(start) and name != own}


def _settable(key: str, known: Mapping[str, Any], written: str, origin: str) -> Any:
    """The flag of that name.

    Raises:
        UnknownName: the command has none.
        InvalidStudy: it is a consent, which nothing that is stored can give.
    """
    parameter = known.get(key)
    if parameter is None or key in _OURS:
        raise UnknownName(f"setting in {origin}", written, _written(known, written, key))
    if getattr(parameter, "rich_help_panel", None) == CONSENT:
        raise InvalidStudy(
            f"{written} of {origin} allows what only the command itself can", f"write {parameter.opts[0]} on the command line"
        )
    return parameter


def _written(known: Iterable[str], written: str, key: str) -> list[str]:
    """The names that there are, as they would have been written."""
    names = [name for name in known if name not in _OURS]
    return [f"{written.removesuffix(key.upper())}{name.upper()}" for name in names] if written != key else names


def _as_given(value: Any, parameter: Any, where: str) -> Any:
    """A value as the command line would have it: lists and mappings become text, flags are true or false.

    Raises:
        InvalidStudy: it is no value for that flag.
    """
    if getattr(parameter, "is_flag", False):
        if isinstance(value, bool):
            return value
        said = str(value).strip().lower()
        if said not in (*_TRUE, *_FALSE):
            raise InvalidStudy(f"{where} is {value!r}", "write true or false")
        return said in _TRUE
    if isinstance(value, bool) or value is None:
        raise InvalidStudy(f"{where} is {'empty' if value is None else str(value).lower()}", f"give {_key(parameter)} a value")
    if isinstance(value, list):
        texts = [str(item) for item in value]
        return texts if getattr(parameter, "multiple", False) else ",".join(texts)
    if isinstance(value, dict):
        return ",".join(f"{name}={item}" for name, item in value.items())
    return [str(value)] if getattr(parameter, "multiple", False) else str(value)


def _take_quiet(context: typer.Context, asked: bool) -> None:
    if not context.resilient_parsing:
        loudness.quiet = asked


def _take_verbose(context: typer.Context, asked: bool) -> None:
    if context.resilient_parsing:
        return
    loudness.verbose = asked
    log = logging.getLogger("tempering")
    for handler in [handler for handler in log.handlers if isinstance(handler, _ToStandardError)]:
        log.removeHandler(handler)
    log.setLevel(logging.INFO if asked else logging.NOTSET)
    if asked:
        log.addHandler(_ToStandardError())


class _ToStandardError(logging.Handler):
    """Log lines on standard error, as it is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(f"{record.levelname.lower()}: {record.getMessage()}\n")


SettingsOption = Annotated[
    Path | None,
    option(
        "--settings", "FILE.yaml", "Flags from a file; the environment and the command line win.", SHELL,
        is_eager=True, expose_value=False, callback=_take_settings,
    ),
]  # fmt: skip
QuietOption = Annotated[
    bool,
    option("--quiet", "", "Say nothing on standard error but warnings.", SHELL, is_eager=True, expose_value=False, callback=_take_quiet),
]
VerboseOption = Annotated[
    bool,
    option(
        "--verbose", "", "Say more: every probe, where settings come from, where an error arose.", SHELL,
        is_eager=True, expose_value=False, callback=_take_verbose,
    ),
]  # fmt: skip
