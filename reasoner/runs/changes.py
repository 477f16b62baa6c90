"""Which keys of a run's configuration may change when it goes on, and what that does to its results.

Everything else decides what is trained: a run that changed it half-way would be neither the one nor the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.bounded_files import SMALL_BYTES, is_there, read_bytes
from reasoner.config import Config
from reasoner.errors import ConfigError, UserError
from reasoner.settings import Resolved, load_config, settings_of
from reasoner.settings.messages import show_key, show_value

NOTHING = ""
ROUNDING = "the update is the same up to rounding"
DRAWS = "other responses of the same distribution are drawn"
FAILURES = "other calls of reward sources may fail"
PLACE = "it must hold the same as before, which is checked"
LENGTH = "what depends on the number of steps (learning.decay, schedules by share) follows the new one from here on"

ALLOWED: Mapping[str, str] = {
    "run.steps": NOTHING,
    "run.max_hours": NOTHING,
    "learning.max_not_finite": NOTHING,
    "run.checkpoint_every": NOTHING,
    "run.keep_last": NOTHING,
    "run.keep_best": NOTHING,
    "evaluation.every": NOTHING,
    "handover.check_every": NOTHING,
    "handover.max_gap": NOTHING,
    "scoring.workers": NOTHING,
    "scoring.cache": NOTHING,
    "scoring.max_failure_rate": NOTHING,
    "scoring.memory_mb": FAILURES,
    "rewards.*.timeout_s": FAILURES,
    "rewards.*.retries": FAILURES,
    "rewards.*.max_calls": FAILURES,
    "run.ranks": DRAWS,
    "lora.handover": DRAWS,
    "learning.engine": ROUNDING,
    "learning.deepspeed.*": ROUNDING,
    "learning.token_budget": ROUNDING,
    "learning.logit_chunk": ROUNDING,
    "learning.gradient_checkpointing": ROUNDING,
    "learning.packing": ROUNDING,
    "learning.share_prompts": ROUNDING,
    "sampling.tensor_parallel": DRAWS,
    "sampling.memory_share": DRAWS,
    "sampling.kv_cache_gib": DRAWS,
    "sampling.servers": DRAWS,
    "sampling.weights_folder": NOTHING,
    "plugins": PLACE,
    "model.path": PLACE,
    "critic.path": PLACE,
    "data.*.path": PLACE,
}
"""key (`*`: any one part) -> what may differ from the run with the old value"""


@dataclass(frozen=True, slots=True)
class Change:
    """A key with another value than before."""

    key: str
    before: Any
    after: Any
    effect: str
    """what may differ from the run with the old value; empty: nothing"""

    def __str__(self) -> str:
        text = f"{self.key}: {show_value(self.before)} -> {show_value(self.after)}"
        return f"{text} ({self.effect})" if self.effect else text


def load_resumed(folder: Path, sets: Sequence[str]) -> tuple[Resolved, tuple[Change, ...]]:
    """The configuration of the run in `folder` with `sets` laid over it, and what they changed.

    Raises:
        UserError: there is no run in `folder`.
        ConfigError: a key is not allowed, or must not change.
    """
    file = folder / "config.toml"
    if not is_there(file):
        what = "holds no run: config.toml is missing" if folder.is_dir() else "does not exist"
        raise UserError(f"--resume {folder}: the folder {what}. `ls {folder.parent}` shows what there is.")
    read_bytes(file, SMALL_BYTES)  # no link, no pipe: what names a configuration on the command line may be a link
    before, after = load_config(file), load_config(file, sets=sets)
    found = changes(before.config, after.config)
    refused = [change for change in found if allowed(change.key) is None]
    if refused:
        listed = "\n".join(f"  {change}" for change in refused)
        raise ConfigError(
            f"--resume {folder}: a run goes on as it began. These would change what it trains:\n{listed}\n"
            f"Leave them out, or start a new run with them: reasoner run {before.config.task} --config {file} --set ..."
        )
    return after, tuple(found)


def changes(before: Config, after: Config) -> list[Change]:
    """The keys with different values, in the order of the configuration."""
    old, new = (
        {show_key(path): leaf.value for path, leaf in settings_of(config).items()} for config in (before, after)
    )
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [Change(key, old.get(key), new.get(key), _effect(key, after)) for key in keys]


def allowed(key: str) -> str | None:
    """What may differ when the key changes (empty: nothing); None: it must not."""
    parts = key.split(".")
    for pattern, effect in ALLOWED.items():
        wanted = pattern.split(".")
        if len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True)):
            return effect
    return None


def _effect(key: str, after: Config) -> str:
    if key == "run.steps" and _depends_on_length(after):
        return LENGTH
    return allowed(key) or NOTHING


def _depends_on_length(config: Config) -> bool:
    shares = [
        bound
        for term in config.gro.terms.values()
        for bound in (getattr(term.schedule, name, 1) for name in ("first", "last", "at"))
        if 0 < bound < 1
    ]
    return config.learning.decay != "constant" or bool(shares)
