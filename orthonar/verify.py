"""Hold what is recorded against what is published, and check the records: `python -m orthonar.verify`."""

import sys

from .report.verify import main

if __name__ == "__main__":
    sys.exit(main())
