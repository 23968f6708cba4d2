"""Makes `colour_profiles` importable in the tests of utils."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
