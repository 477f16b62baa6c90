"""The command line: arguments and output of every command; what it does is in the package of its subject.

Input: arguments. Output: text and an exit code.

    app.py                      registers the commands
    train/, inspect/, results/  one file per command: the three panels of `--help`
    options.py, console.py, progress.py
                                options that commands share; where they print and how errors look; progress bars
"""
