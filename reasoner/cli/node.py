"""`reasoner node`, which `reasoner run --hostfile` starts on every machine."""

from __future__ import annotations

from reasoner.models import resolve_model


def node() -> None:
    """Start the ranks of one machine: reasoner's own command; what to do comes on standard input."""
    from reasoner.ssh import carry_out

    carry_out(resolve_model)
