"""For programs and notebooks: what the commands do, as functions. `reasoner` re-exports the public names.

    values, functions --arguments, plugins--> `reasoner run ...` in a child process --command--> run folder --run--> Run

- `command` starts the command line itself as a child, and says why: nothing of a run is done here a second time
- `shipping`, `sources` write a function of a notebook cell as the plugin file that workers import
- `run`, `evaluation` start the commands and read the folders that they leave; `scores` calls the scoring service itself
- `frames`, `page` show what is read: as tables of pandas or polars, and as a report inside of a notebook
"""
