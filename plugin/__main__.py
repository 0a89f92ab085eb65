"""``python -m plugin`` is ``mig-device-plugin``."""

import sys

from plugin.cli import main

sys.exit(main())
