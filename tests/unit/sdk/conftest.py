"""Makes the sample agents importable, here and (by PYTHONPATH) in sidecars."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
