"""Commands that show what there is, before a run.

tasks.py, algorithms.py, environments.py, plugins.py, config.py
                            the command of that name
rewards.py, reward_checks.py, reward_attack.py
                            `reasoner rewards`; its `test` and `bench`; its `attack`
reward_inputs.py, reward_options.py
                            what these share: services and problems; arguments, also of `plugins`
plan.py, doctor.py          what a run takes of memory and disk; what works on this machine
"""
