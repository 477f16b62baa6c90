"""Methods as data, without torch.

Input: names and numbers of `[gro]`. Output: terms that fit together.

    terms.py, schedules.py      one term of the objective; its weight over the run
    presets.py, registry.py     the built-in methods, a row each; those and the ones of plugins
    validation.py, describe.py  which choices fit each other; a term in words and formulas
"""
