"""Puts code/ on the module search path: import it before the project's own modules."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "code"))
