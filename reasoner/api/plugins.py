"""Plugins of a program: files as they are, and functions as files that are written where the run's folders are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reasoner.api.arguments import Plugin
from reasoner.api.shipping import write_plugin
from reasoner.errors import ConfigError, nearest
from reasoner.loading import Resolved
from reasoner.plugins.reward_api import RewardSource
from reasoner.processes.scratch_folders import ScratchFolder

FOLDER = "plugins"
"""beside the run folders: files of functions that runs were given"""


def place(plugins: Sequence[Plugin], load: Callable[[list[str]], Resolved]) -> list[str]:
    """The files of the plugins; those of functions are written below the folder for run folders, and stay there: a run
    that goes on needs them again.

    Args:
        load: the configuration with plugin files, for where that folder is and for what it makes of the functions.

    Raises:
        UserError: a function cannot be written as a file, or nothing in the configuration uses it; or as `load`.
    """
    functions = [plugin for plugin in plugins if isinstance(plugin, RewardSource)]
    if not functions:
        return [str(plugin) for plugin in plugins]
    with written(plugins) as files:
        config = load(files).config
    for source in functions:
        used = [reward.source for reward in config.rewards]
        if source.name not in used:
            raise ConfigError(
                f"plugins has the reward source {source.name!r}, and the configuration does not use it."
                f"{nearest(source.name, used)} Its rewards are: {', '.join(used) or 'none'}. Name it there: "
                f"config={{'rewards': [{{'source': {source.name!r}}}]}}."
            )
    return keep(plugins, Path(config.run.output))


def keep(plugins: Sequence[Plugin], output: Path) -> list[str]:
    """The files of the plugins, those of functions written below `output`. It says where."""
    files = []
    for plugin in plugins:
        if isinstance(plugin, RewardSource):
            file = write_plugin(plugin, (output / FOLDER).absolute())
            print(f"{plugin.name}: written to {file}, for the workers that call it")  # noqa: T201
            files.append(str(file))
        else:
            files.append(str(plugin))
    return files


@contextmanager
def written(plugins: Sequence[Plugin]) -> Iterator[list[str]]:
    """The files of the plugins, those of functions in a temporary folder. What they are imported as is forgotten."""
    with ScratchFolder("plugins") as scratch:
        try:
            yield [
                str(write_plugin(plugin, scratch) if isinstance(plugin, RewardSource) else plugin) for plugin in plugins
            ]
        finally:
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", None) or "").startswith(f"{scratch}/"):
                    del sys.modules[name]
