"""Measure suites and peers on one workload; write JSON, Markdown tables and plots.

For example:

    python benchmarks/run.py --preset hybrid
    python benchmarks/run.py --suites paper,phong,plain --peers phe,tenseal --json FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # `python benchmarks/run.py` puts this folder on the path, not the one above.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    # Processes that systems are measured in load this file again, and need none of it.
    from benchmarks.program import main

    sys.exit(main())
