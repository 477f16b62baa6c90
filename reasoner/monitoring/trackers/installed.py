"""Whether a tracker's library is there."""

from __future__ import annotations

import importlib.metadata

from reasoner.errors import MissingDependencyError


def version_of(distribution: str) -> str:
    """`wandb 0.31.0`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError(f"{distribution} is not installed: `pip install {distribution}`") from None
