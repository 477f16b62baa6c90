"""The sandboxes of an ordinary user: `python -m tests.integration.sandbox_user` prints what does not hold, as JSON."""

from __future__ import annotations

import json
import os

from reasoner.sandbox.choose import BACKENDS
from reasoner.sandbox.proof import prove_fully

if __name__ == "__main__":
    faults = {name: prove_fully(make()) for name, make in BACKENDS.items()}
    print(json.dumps([os.geteuid(), faults]))
