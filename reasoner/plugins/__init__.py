"""Plugins: the contract that authors write against, and the one module that finds plugins and calls their hooks.

hookspecs.py                    the hooks
reward_api.py, tracker_api.py   `@reward`, trackers; options.py: their typed options
manager.py                      finds, checks and calls plugins
cases.py, scaffold.py           cases of a reward source; the start of a plugin of one's own
"""
