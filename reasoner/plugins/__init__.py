"""Plugins: the contract that authors write against, and the one module that finds plugins and calls their hooks.

Input: entry points, files and packages. Output: reward sources, tools, environments, tasks, methods and trackers.

    hookspecs.py                the hooks
    reward_api.py               `@reward`; tracker_api.py: trackers; options.py: typed options of all
    tool_api.py                 `@tool`; environment_api.py: `@environment`
    manager.py, importing.py    finds plugins and calls their hooks; imports a file, once per process
    contributions.py            what a plugin registers, checked; events.py: what plugins are told of a run
    scaffold.py                 the start of a plugin of one's own
"""
