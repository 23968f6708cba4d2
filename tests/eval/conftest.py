"""Makes `tiny_bench` importable in the tests of eval."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
