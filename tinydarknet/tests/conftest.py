"""The programs and `src` of this folder come first in the search path: one test process a folder."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(FOLDER))
