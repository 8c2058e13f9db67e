"""The tests here import the source of the shared runtime as `model_utils`, and the tools of utils/ and scripts/."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in ("utils", "scripts"):
    sys.path.insert(0, str(ROOT / folder))
