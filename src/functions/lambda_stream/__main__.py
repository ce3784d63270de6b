"""`python -m functions.lambda_stream`: what the exec wrapper starts in place of the runtime's own loop."""

import os
import sys

from .loop import main

sys.exit(main(os.environ))
