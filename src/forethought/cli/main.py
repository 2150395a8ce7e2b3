"""The front of the command line: finds the subcommand, and turns whatever ends it into an exit code.

Only the subcommand that is asked for is imported, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..core.errors import ForethoughtError, SettingsError
from ..core.memory import keep_freed_memory

COMMANDS = {
    "train": "Train one agent on one task, in a folder from which it can be resumed.",
    "evaluate": "Evaluate a trained agent, by one planner or by several in one table.",
    "collect": "Record episodes of a task, to learn a world model from.",
    "import": "Fill a store with recorded episodes of others: HDF5, Minari or Lance.",
    "pretrain": "Learn a world model from recorded episodes, without acting.",
    "adopt": "Take up the released weights of a LeWorldModel as a run.",
    "time-to-goal": "Learn how many steps lie between observations, for a pretrained world model.",
    "probe": "Read physical quantities off the latents of a world model, now and ahead.",
    "surprise": "Perturb a run's task, and measure who notices: its world model, and baselines.",
    "compare": "Train agents x tasks x seeds side by side, and judge them with intervals.",
    "report": "Write one HTML page, plots and a table from the runs in a folder.",
    "speed": "Measure what a step costs, of agents or environments; what plans and watching cost; how fast clips load.",
    "list": "List planners, agents, tasks, benchmarks and perturbations, each explained in a line.",
    "doctor": "Tell what works here, what is missing, and whether an environment is sound.",
    "demo": "Train two agents on a MuJoCo task and show what they learned.",
}

USAGE_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143  # as shells and argparse have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 for success; 1 for a command that found what it was asked to look for wanting; 2 for a mistake in what was
        asked, which one sentence on standard error explains; 130 and 143 after Ctrl-C and SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _never_fail_to_print()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            code = _run(arguments)
        sys.stdout.flush()
        return code
    except ForethoughtError as error:
        sentence = " ".join(str(error).split())  # wide spaces describe themselves in several lines
        if isinstance(error, SettingsError):
            from .options import by_options

            sentence = by_options(sentence, arguments)
        print(f"forethought: {sentence}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        return stopped_by(str(stop))


def stopped_by(signal: str) -> int:
    """Return the exit code after the signal of that name; an interruption without one is Ctrl-C."""
    return TERMINATED if signal == "SIGTERM" else INTERRUPTED


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else USAGE_ERROR
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        print(f"forethought {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "forethought --help lists them."
        print(f"forethought: there is no command {name!r}; {hint}", file=sys.stderr)
        return USAGE_ERROR
    keep_freed_memory()
    command = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    code: int = command.run(rest)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: forethought COMMAND [OPTIONS]",
            "",
            "Learn a world model that predicts in representation space, and think ahead in it.",
            "",
            *lines,
            "",
            "forethought COMMAND --help explains a command; forethought --version tells the version.",
        ]
    )


def _show_warning(message: Warning | str, *_: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"forethought: {message}", file=sys.stderr)


def _never_fail_to_print() -> None:
    """Let a terminal that lacks a character show a stand-in for it instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
