"""`reasoner node`, which `reasoner run --hostfile` starts on every machine."""

from __future__ import annotations

from reasoner.models.resolve import resolve_model


def node() -> None:
    """Start the ranks of one machine: reasoner's own command; what to do comes on standard input."""
    from reasoner.launch.ssh import serve_request

    serve_request(resolve_model)
