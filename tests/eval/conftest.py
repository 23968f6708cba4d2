"""Makes the helper modules (`eval_helpers`) importable in the tests of eval and of all its rooms."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
