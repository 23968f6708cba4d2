"""Makes `cases`, what the reference was recorded for, importable in the tests of bdkit."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
