"""``python -m growformer`` is the command line."""

import sys

from growformer.cli.main import main

sys.exit(main())
