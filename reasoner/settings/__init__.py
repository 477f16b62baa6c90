"""From layers of values to one checked configuration, with where each value came from.

Lowest first: built-in defaults, the method's preset, task file, profile, `--config` files in their order, `--set`.
Nothing is loaded beyond text files and plugins, and everything that is impossible is refused here (`ConfigError`).
"""

from reasoner.settings.load import Resolved, load_config
from reasoner.settings.write import settings_of, term_table, term_toml, to_toml

__all__ = ["Resolved", "load_config", "settings_of", "term_table", "term_toml", "to_toml"]
