"""Loading a configuration: files and options become one validated `Config` that knows the origin of each value.

Input: a task file, a profile, `--config` and `--set`. Output: `Resolved` (a `Config` and its origins).

    load.py                     reads the layers and checks the result
    task_files.py, task_layers.py   task files; the layers that one has
    parts.py, tables.py         tasks inside a configuration: a mixture, further evaluations
    layers.py, introspection.py layers over each other; which keys there are
    messages.py, other_names.py what is refused, in words; what keys are called in TRL and verl
    dump.py                     a configuration as TOML
"""

from reasoner.loading.dump import settings_of, term_table, term_toml, to_toml
from reasoner.loading.load import Resolved, load_config

__all__ = ["Resolved", "load_config", "settings_of", "term_table", "term_toml", "to_toml"]
