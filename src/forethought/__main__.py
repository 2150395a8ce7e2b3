"""``python -m forethought`` is the ``forethought`` command."""

from .cli import main

raise SystemExit(main())
