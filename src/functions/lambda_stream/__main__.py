"""`python -m functions.lambda_stream`: what the exec wrapper starts in place of the runtime's own loop."""

import gc
import os
import sys

gc.disable()  # until all is loaded (loop.py): to look for garbage in it meanwhile is a fifteenth of the start

from .loop import main  # noqa: E402

sys.exit(main(os.environ))
