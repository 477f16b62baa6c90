"""Rows as others write them: where their question and answer are.

Input: rows with the names of `columns`. Output: rows with `question` and `answer`, and a sentence on what was read.

    paths.py       dotted paths into a row: `reward_model.ground_truth`
    recognise.py   rows of verl and TRL, conversations that end with the answer
    choices.py     options of multiple choice, and which of them is right
"""
