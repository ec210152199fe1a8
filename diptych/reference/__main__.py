"""``python -m diptych.reference [FOLDER]``: what ``make reference`` runs."""

from __future__ import annotations

import sys
from pathlib import Path

from diptych.reference import write

if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
