"""Options that a plugin declares as a pydantic model, checked against what a configuration gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from reasoner.errors import ConfigError, nearest


def check_options(owner: str, model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The complete options, defaults filled in.

    Args:
        owner: what messages call the one whose options they are: `reward source 'math'`.

    Raises:
        ConfigError: an unknown option or a value of the wrong type.
    """
    for key in options:
        if key not in model.model_fields:
            allowed = sorted(model.model_fields)
            raise ConfigError(
                f"{owner} has no option {key!r}.{nearest(key, allowed)} It has: {', '.join(allowed) or 'none'}."
            )
    try:
        return model.model_validate(dict(options)).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{owner}, option {key!r}: {first['msg']}, got {first['input']!r}.") from error
