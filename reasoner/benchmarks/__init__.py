"""`reasoner eval` and `reasoner score`: tasks x models, compared, and resumed after an interruption.

parts.py --> loop.py (scored groups, committed one by one in folder.py) --results.py--> table.py; session.py holds it
together
rescore.py   saved responses under other rewards
"""
