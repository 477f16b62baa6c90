"""`reasoner eval`: several tasks with several models, compared, and gone on with after an interruption.

tasks x models --parts--> Part --loop--> scored groups, committed one by one --results--> tables, JSON
"""
