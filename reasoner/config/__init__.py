"""The configuration of a run as pydantic models: every key with its type, range, unit and one sentence.

In come tables of values (`reasoner.loading` reads them from files), out comes a `Config` that holds together.

    config.py                   the sections, from `Config` down
    consistency.py              what must hold between sections
"""
