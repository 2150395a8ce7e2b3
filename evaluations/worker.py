"""One run of a comparison, in a process of its own: ``python -m forethought.evaluations.worker SETTINGS FOLDER``.

SETTINGS is the JSON of :class:`~.settings.TrainSettings`. A run with a checkpoint goes on from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import ForethoughtError
from ..core.memory import keep_freed_memory
from ..core.runs import Run, holds_run
from .settings import TrainSettings
from .training import resume, train

FINISHED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Train or resume; return 0 when finished, 130 when interrupted, 2 after a mistake that one line explains."""
    settings, folder = TrainSettings.from_dict(json.loads(arguments[0])), Path(arguments[1])
    try:
        goes_on = holds_run(folder) and bool(Run.open(folder).checkpoints())
        result = resume(folder) if goes_on else train(settings, folder)
    except ForethoughtError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return FINISHED if result.status == "finished" else INTERRUPTED


if __name__ == "__main__":
    keep_freed_memory()
    raise SystemExit(main(sys.argv[1:]))
