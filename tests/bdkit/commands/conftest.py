"""Makes `refusals` importable in the tests of the commands."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
