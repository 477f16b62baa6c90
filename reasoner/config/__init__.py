"""The configuration of a run as pydantic models: every key with its type, range, unit and one sentence.

    config.py        the sections, from `Config` down
    consistency.py   what must hold between sections

No file is read here: `reasoner.loading` lays the layers over each other and fills these models.
"""
