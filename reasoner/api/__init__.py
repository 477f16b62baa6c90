"""The commands as functions, for programs and notebooks: `reasoner.run`, `evaluate`, `score`.

Input: values and functions. Output: values that read the folder which the command left.

    arguments.py, plugins.py    values and functions as the command line has them
    shipping.py, sources.py     a function of a notebook cell as the plugin file that workers import
    command.py                  starts the command line as a child: nothing of a run is done here a second time
    run.py, evaluation.py       the folders of runs and evaluations, read
    scores.py, rows.py          the scoring service itself, on a program's own rows
    frames.py, page.py          tables of pandas or polars; the report inside of a notebook
"""
