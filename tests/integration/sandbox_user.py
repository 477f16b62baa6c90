"""The sandboxes of an ordinary user: `python -m tests.integration.sandbox_user` prints what does not hold, as JSON."""

from __future__ import annotations

import json
import os

from reasoner.sandbox import Limits, Sandbox
from reasoner.sandbox.choose import BACKENDS
from reasoner.sandbox.proof import prove_fully
from tests.integration.sandbox_hoards import faults
from tests.integration.sandbox_world import touched, world


def wrong(sandbox: Sandbox) -> list[str]:
    """The proof, the attacks on what is around, and the programs that hoard."""
    with world() as around:
        return [
            *prove_fully(sandbox),
            *touched(sandbox, around, Limits(processes=12)),
            *(f"{name}: {fault}" for name, fault in faults(sandbox).items()),
        ]


if __name__ == "__main__":
    print(json.dumps([os.geteuid(), {name: wrong(make()) for name, make in BACKENDS.items()}]))
