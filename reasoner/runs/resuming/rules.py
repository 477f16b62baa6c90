"""Which keys of a run's configuration may change when it goes on, and what that does to its results.

Everything else decides what is trained: a run that changed it half-way would be neither the one nor the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from reasoner.config import Config
from reasoner.errors import ConfigError, UserError
from reasoner.io.bounded_files import SMALL_BYTES, is_there, read_bytes
from reasoner.loading import Resolved, load_config, settings_of
from reasoner.loading.messages import show_key, show_value
from reasoner.runs.checksums import differences, shortened
from reasoner.runs.starts import RunStart

NOTHING = ""
ROUNDING = "the update is the same up to rounding"
DRAWS = "other responses are sampled from the same distribution"
FAILURES = "other calls of reward sources may fail"
TOOL_FAILURES = "other calls of tools and of the environment may fail"
PLACE = "it must hold the same as before, which is checked"
LENGTH = "what depends on the number of steps (learning.decay, schedules by share) follows the new one from here on"

ALLOWED: Mapping[str, str] = {
    "run.steps": NOTHING,
    "run.max_hours": NOTHING,
    "learning.max_not_finite": NOTHING,
    "run.checkpoint_every": NOTHING,
    "run.keep_last": NOTHING,
    "run.keep_rollouts": NOTHING,
    "run.keep_best": NOTHING,
    "evaluation.every": NOTHING,
    "handover.check_every": NOTHING,
    "handover.max_gap": NOTHING,
    "scoring.workers": NOTHING,
    "scoring.cache": NOTHING,
    "scoring.max_failure_rate": NOTHING,
    "scoring.memory_mb": FAILURES,
    "environment.workers": NOTHING,
    "environment.sessions": NOTHING,
    "environment.max_failure_rate": NOTHING,
    "environment.memory_mb": TOOL_FAILURES,
    "environment.timeout_s": TOOL_FAILURES,
    "rewards.*.timeout_s": FAILURES,
    "rewards.*.retries": FAILURES,
    "rewards.*.max_calls": FAILURES,
    "run.ranks": DRAWS,
    "lora.handover": DRAWS,
    "learning.engine": ROUNDING,
    "learning.deepspeed.*": ROUNDING,
    "learning.token_budget": ROUNDING,
    "learning.sequence_parallel": ROUNDING,
    "learning.logit_chunk": ROUNDING,
    "learning.gradient_checkpointing": ROUNDING,
    "learning.packing": ROUNDING,
    "learning.experts": ROUNDING,
    "learning.share_prompts": ROUNDING,
    "sampling.tensor_parallel": DRAWS,
    "sampling.memory_share": DRAWS,
    "sampling.kv_cache_gib": DRAWS,
    "sampling.servers": DRAWS,
    "sampling.weights_folder": NOTHING,
    "plugins": PLACE,
    "model.path": PLACE,
    "critic.path": PLACE,
    "teacher.path": PLACE,
    "teacher.servers": ROUNDING,
    "data.*.path": PLACE,
}
"""key (`*`: any one part) -> what may differ from the run with the old value"""

REWARDS = "the rewards of the steps from here on are others than before"
ON_REQUEST: Mapping[str, str] = {"rewards.*.options.*": REWARDS}
"""the same for keys that change what is trained, and are taken with `--accept-changes` alone: a mended reward source
goes on with its run"""
_IN_A_TASK = re.compile(r"^(?:mixture|evaluation\.also)\.[^.]+\.")
_PLUGIN = "plugin "
"""how an entry of a run's identity begins that is a plugin's file"""
_SCORES = "scores that were known"
"""in a start's changes: they were forgotten"""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key with another value than before."""

    key: str
    before: Any
    after: Any
    effect: str
    """what may differ from the run with the old value; empty: nothing"""

    def __str__(self) -> str:
        text = f"{self.key}: {show_value(self.before)} -> {show_value(self.after)}"
        return f"{text} ({self.effect})" if self.effect else text


def load_resumed(folder: Path, sets: Sequence[str], *, accept: bool = False) -> tuple[Resolved, tuple[KeyChange, ...]]:
    """The configuration of the run in `folder` with `sets` laid over it, and what they changed.

    Args:
        folder: of the run.
        sets: `key=value`.
        accept: also take the changes of `ON_REQUEST`.

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
    different = changes(before.config, after.config)
    refused = [change for change in different if allowed(change.key) is None]
    fatal = [change for change in refused if _on_request(change.key) is None]
    if fatal or (refused and not accept):
        raise ConfigError(
            _refusal(folder, map(str, refused), fatal=bool(fatal))
            + f" A new run with them: reasoner run {quote(str(file))} --set KEY=VALUE"
        )
    return after, tuple(different)


def check_identity(
    folder: Path, before: Mapping[str, str], now: Mapping[str, str], *, accept: bool
) -> tuple[KeyChange, ...]:
    """What a run is made from and is not as it was (`checksums.identify`), as far as it may go on with that.

    Raises:
        UserError: the model, the data or the engine has changed; or a plugin, and `accept` is not given.
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    fatal = any(not name.startswith(_PLUGIN) for name in names)
    if fatal or (names and not accept):
        raise UserError(_refusal(folder, differences(before, now), fatal=fatal))
    return tuple(KeyChange(name, shortened(before.get(name)), shortened(now.get(name)), REWARDS) for name in names)


def _refusal(folder: Path, changed: Iterable[str], *, fatal: bool) -> str:
    """What has changed, and what can be done about it."""
    what = "\n  ".join(("a resumed run keeps its objective and data, and this would change them:", *changed))
    do = (
        "Leave it as it was, or start a new run."
        if fatal
        else "This concerns the rewards: with --accept-changes the run is resumed, cached scores are discarded, "
        "and the change is recorded. Otherwise undo the change, or start a new run."
    )
    return f"--resume {folder}: {what}\n{do}"


def forgetting() -> KeyChange:
    """What `--accept-changes` does to the scores that are known: in a start's record."""
    return KeyChange(_SCORES, "kept", "forgotten", NOTHING)


def loses_scores(starts: Iterable[RunStart], step: int) -> bool:
    """Whether the scores in the checkpoint of a step are of reward sources that have changed since."""
    return any(start.step >= step and _SCORES in start.changes for start in starts)


def changes(before: Config, after: Config) -> list[KeyChange]:
    """The keys with different values, in the order of the configuration."""
    old, new = (
        {show_key(path): leaf.value for path, leaf in settings_of(config).items() if leaf.value != {}}
        for config in (before, after)
    )
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [KeyChange(key, old.get(key), new.get(key), _effect(key, after)) for key in keys]


def allowed(key: str) -> str | None:
    """What may differ when the key changes (empty: nothing); None: it must not."""
    return _matching(ALLOWED, key)


def _matching(patterns: Mapping[str, str], key: str) -> str | None:
    """The effect of the first pattern that the key matches; that of a task inside counts as of a run on it alone."""
    parts = _IN_A_TASK.sub("", key).split(".")
    for pattern, effect in patterns.items():
        wanted = pattern.split(".")
        if len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True)):
            return effect
    return None


def _on_request(key: str) -> str | None:
    own = _IN_A_TASK.sub("", key)
    return _matching(ON_REQUEST, ".".join(own.split(".")[:4]))  # an option may be a table


def _effect(key: str, after: Config) -> str:
    if key == "run.steps" and _depends_on_length(after):
        return LENGTH
    return allowed(key) or _on_request(key) or NOTHING


def _depends_on_length(config: Config) -> bool:
    shares = [
        bound
        for term in config.gro.terms.values()
        for bound in (getattr(term.schedule, name, 1) for name in ("first", "last", "at"))
        if 0 < bound < 1
    ]
    return config.learning.decay != "constant" or bool(shares)
