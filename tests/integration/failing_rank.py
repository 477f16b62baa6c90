"""A plugin that cannot be loaded by rank 1."""

from __future__ import annotations

import os

if os.environ.get("RANK") == "1":
    raise ZeroDivisionError("only here")
