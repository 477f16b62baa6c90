"""From layers of values to one checked configuration, with where each value came from.

    task file, profile, --config, --set --layers.py--> values --load.py--> Resolved (a Config and its origins)

`task_files.py` reads tasks, `introspection.py` tells which keys there are, `messages.py` words what is refused,
`dump.py` writes a configuration as TOML, and `resume_rules.py` says which keys may change when a run is resumed.
Nothing is loaded beyond text files and plugins, and everything that is impossible is refused here (`ConfigError`).
"""

from reasoner.loading.dump import settings_of, term_table, term_toml, to_toml
from reasoner.loading.load import Resolved, load_config

__all__ = ["Resolved", "load_config", "settings_of", "term_table", "term_toml", "to_toml"]
