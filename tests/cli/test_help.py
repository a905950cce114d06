"""Every command tells what it does and what it takes."""

from collections.abc import Iterator

import click
import pytest
import typer

from deskgrid import __version__
from deskgrid.cli.main import app

from .conftest import Command


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "deskgrid")
def test_help_of_every_command_says_what_it_does_and_names_its_options(
    deskgrid: Command, path: tuple[str, ...]
) -> None:
    said = deskgrid(*path, "--help")
    assert (said.code, said.err) == (0, "")
    assert " ".join(["Usage: deskgrid", *path]) in said.out
    for option in (p for p in ALL[path].params if isinstance(p, click.Option)):
        assert option.opts[0] in said.out
        assert path == () or option.help


def test_version_is_told(deskgrid: Command) -> None:
    assert deskgrid("--version").out == f"{__version__}\n"


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["why"], ["why", "job"], ["pool", "configure", "--what"], ["story", "a", "b"]]
)
def test_wrong_use_is_exit_code_2_with_the_usage(deskgrid: Command, argv: list[str]) -> None:
    said = deskgrid(*argv)
    assert said.code == 2
    assert "Traceback" not in said.err
    assert "Usage" in said.out + said.err
