"""Options: from a settings dataclass to the options of a command, by tyro."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, TypeVar

import tyro

from ..core.errors import ForethoughtError, SettingsError
from ..core.settings import parse_assignment

Options = TypeVar("Options")


def parse(
    options: type[Options],
    command: str,
    arguments: Sequence[str],
    description: str = "",
    default: Options | None = None,
) -> Options:
    """Build ``options`` from command-line arguments.

    Args:
        options: a dataclass; its fields and their docstrings become options and their help.
        command: name of the subcommand, for messages.
        arguments: what follows it.
        description: begins the help; by default the docstring of ``options``.
        default: what holds where nothing is given, if not the defaults of ``options``.

    Raises:
        ForethoughtError: a value that the dataclass refuses, in its own words, or arguments that do not fit, with
            the nearest option.
        SystemExit: help was printed (0).
    """
    errors, help_text = StringIO(), StringIO()
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(errors))
        if os.environ.get("NO_COLOR"):  # tyro looks at the terminal only
            stack.enter_context(redirect_stdout(help_text))
        try:
            return tyro.cli(
                options,
                prog=f"forethought {command}",
                description=description or None,
                args=_with_none(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.AvoidSubcommands,),  # settings that are none by default stay so
            )
        except SystemExit as stop:
            ended = stop
    cause: BaseException | None = ended
    while cause is not None and not isinstance(cause, ForethoughtError):
        cause = cause.__context__
    if cause is not None:
        raise cause from None
    if ended.code:
        raise SettingsError(_in_one_sentence(errors.getvalue(), command))
    sys.stdout.write(help_text.getvalue())
    raise ended


def _with_none(arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` with an option's "none", as settings say it everywhere else, spelt as tyro does."""
    spelt, option = [], False
    for argument in arguments:
        name, equals, value = argument.rpartition("=")
        names_option = argument.startswith("--")
        if value.lower() == "none" and (option if not equals else names_option):
            argument = f"{name}{equals}None"
        spelt.append(argument)
        option = names_option and "=" not in argument
    return spelt


def by_options(message: str, arguments: Sequence[str]) -> str:
    """Return ``message`` with settings called as the options among ``arguments`` that set them, if one does."""

    def option(setting: re.Match[str]) -> str:
        called = setting[1].replace("_", "-")
        known = [name for name in written(arguments) if name.removeprefix("--").rpartition(".")[2] == called]
        return known[0] if len(known) == 1 else setting[0]

    return re.sub(r"\b[A-Z]\w*(?:Settings|Options)\.(\w+)", option, message)


def _in_one_sentence(box: str, command: str) -> str:
    """Return what tyro says in a box of several lines: what is wrong, and the nearest option if it knows one."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:] if not line.startswith("╰")]  # without the title
    text = "\n".join("" if set(line) <= set("─-") else line for line in lines).strip()
    paragraphs = text.split("\n\n")
    wrong, *others = (" ".join(paragraph.split()).rstrip(".") for paragraph in paragraphs)
    nearest = [part.split()[3] for part in others if part.startswith("Perhaps you meant: --")]
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"{wrong}; {hint}forethought {command} --help explains every option."


def written(arguments: Sequence[str]) -> set[str]:
    """Return the options among ``arguments``, as ``--the-option`` each, whether they are set or unset."""
    return {argument.partition("=")[0].replace("_", "-").replace("--no-", "--") for argument in arguments}


def names(text: str, option: str) -> list[str]:
    """Return the names in a list such as ``cem,icem``.

    Raises:
        SettingsError: where one is empty.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise SettingsError(f"{option} {text!r} holds an empty name: separate names by single commas.")
    return parts


def file_name(task: str) -> str:
    """Return a task's name without what file systems may refuse."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in task)


def assignment(text: str) -> tuple[str, Any]:
    """Split what ``--set`` was given, ``NAME=VALUE``; see :func:`~forethought.core.settings.parse_assignment`."""
    return parse_assignment(text, "--set ")
