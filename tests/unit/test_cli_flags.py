"""Groups of flags: spread out for typer, gathered again for the command."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from support.command_line import temper
from tempering.cli_flags import DividedPlacement, Flags, Loading, Placement, gathered
from tempering.cli_options import PANELS, option
from tempering.errors import InvalidStudy


@dataclass(frozen=True)
class Pair(Flags):
    first: Annotated[int, option("--first", "N", "One.", PANELS[2])] = 1
    second: Annotated[str | None, option("--second", "S", "Two.", PANELS[0])] = None


def test_a_group_is_spread_out_and_gathered_again() -> None:
    seen: list[tuple[Pair, str]] = []

    def command(pair: Pair, name: Annotated[str, typer.Argument()] = "nobody") -> None:
        seen.append((pair, name))

    app = typer.Typer()
    app.command()(gathered(command))
    assert CliRunner().invoke(app, ["--second", "b", "somebody"]).exit_code == 0
    assert CliRunner().invoke(app, ["--first", "7"]).exit_code == 0
    assert CliRunner().invoke(app, ["--first", "many"]).exit_code == 2
    assert seen == [(Pair(1, "b"), "somebody"), (Pair(7, None), "nobody")]


def test_flags_are_shown_in_the_order_of_their_panels() -> None:
    def command(pair: Pair, name: Annotated[str, typer.Argument()] = "nobody") -> None:
        raise AssertionError(pair)

    assert list(inspect.signature(gathered(command)).parameters) == ["name", "second", "first"]


def test_a_name_that_stands_twice_is_no_command() -> None:
    def command(pair: Pair, first: int = 1) -> None:
        raise AssertionError(pair)

    with pytest.raises(ValueError, match="first"):
        gathered(command)


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("audit", (DividedPlacement, Loading)),
        ("run", (DividedPlacement,)),
        ("resume", (DividedPlacement,)),
        ("compare", (Placement, Loading)),
        ("base-check", (Loading,)),
    ],
)
def test_every_command_has_the_flags_of_its_groups(command: str, groups: tuple[type[Flags], ...]) -> None:
    text = temper(command, "--help").stdout
    for group in groups:
        for field in fields(group):
            assert f"--{field.name.replace('_', '-')} " in text, field.name
    assert ("--devices" in text) == (DividedPlacement in groups)


def test_a_placement_says_what_its_flags_do() -> None:
    running = DividedPlacement(workers=3, devices=2, activation_checkpointing=True, track=["mlflow"]).running()
    assert (running["workers"], running["allow_code"], running["track"]) == (3, False, ["mlflow"])
    choice = running["executor"]
    assert (choice.name, choice.devices, choice.activation_checkpointing) == ("local", 2, True)
    assert Placement(activation_checkpointing=True).running()["executor"].activation_checkpointing  # a comparison fine-tunes too
    with pytest.raises(InvalidStudy, match="--address auto says nothing to the executor local"):
        Placement(address="auto").running()
