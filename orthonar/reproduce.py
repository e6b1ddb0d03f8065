"""Run the notebooks and print what they reproduced: `python -m orthonar.reproduce --scale pocket`."""

import sys

from .report.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
