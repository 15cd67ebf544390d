"""The jobs: wiring of the library `ttt` to Ray, to YAML and to the command line.

Ray reads these settings once, while it is imported.
"""

import os
import sys

from ttt import extras

try:
    extras.require("a job", "pydantic", "yaml")
except extras.MissingPackage as missing:
    # No command is there yet that could say it in one line.
    print(f"error: {missing}", file=sys.stderr)
    raise SystemExit(2) from None

# ray_jobs.runtime.connection adds the token. Left unset, a local Ray would write a token into the
# user's home and change how their next cluster starts.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# A job shows its own progress and raises its workers' errors; what else they print (Ray's own
# components print a lot) stays in Ray's log folder. Set it to 1 to see it.
os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")
