"""Plugins: the contract that authors write against, and the one module that finds plugins and calls their hooks.

In come entry points, files and packages, out come reward sources, tasks, methods and trackers by name.

    hookspecs.py                the hooks
    reward_api.py               `@reward`; tracker_api.py: trackers; options.py: typed options of either
    manager.py                  finds, checks and calls plugins
    scaffold.py                 the start of a plugin of one's own
"""
