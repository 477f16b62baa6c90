"""The date that a chat template writes.

Some templates (Llama 3.2, Mistral, gpt-oss) write today's date into every prompt, with the function `strftime_now` that
transformers gives them. A run has the date of its first start, whenever it is resumed: its prompts, and what comes
between two turns, would otherwise have other tokens from midnight on. It stands in the run's configuration as
`model.chat_template_kwargs.strftime_now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

NAME = "strftime_now"
"""of the function, in templates and among their arguments"""


def reads_date(template: str | Mapping[str, str] | None) -> bool:
    """Whether a chat template, or one of several by name, asks for the date."""
    return NAME in (template if isinstance(template, str) else " ".join((template or {}).values()))


def today() -> str:
    """ISO 8601."""
    return date.today().isoformat()


def with_function(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a chat template with the function in the place of the date.

    >>> with_function({"strftime_now": "2026-11-30", "enable_thinking": False})["strftime_now"]("%d %B %Y")
    '30 November 2026'
    """
    return {**kwargs, NAME: datetime.fromisoformat(kwargs[NAME]).strftime} if NAME in kwargs else dict(kwargs)
