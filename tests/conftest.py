"""What every suite may use: the project's folder on the path, as `python -m stack` has it."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
