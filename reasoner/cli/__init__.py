"""The command line: what every command takes and prints; what it does is elsewhere.

In come arguments, out come text and an exit code.

    app.py                      registers the commands
    train/, inspect/, results/  one file per command: the three panels of `--help`
    options.py, console.py, progress.py
                                options that commands share; where they print and how errors look; progress bars
"""
