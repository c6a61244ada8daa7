"""Starts code/cert_acc.py, which stands here too because scripts call the paper's own program by this name."""
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    code = Path(__file__).parent / "code"
    sys.path.insert(0, str(code))
    runpy.run_path(str(code / "cert_acc.py"), run_name="__main__")
