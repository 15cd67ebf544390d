"""The jobs: wiring of the library `ttt` to Ray, to YAML and to the command line."""

import os

# Ray reads this once, while it is imported; ray_jobs.runtime adds the token. Left unset, a local
# Ray would write a token into the user's home and change how their next cluster starts.
os.environ.setdefault("RAY_AUTH_MODE", "token")
