"""``python -m plgolf``."""

import sys

from plgolf.cli import main

sys.exit(main())
