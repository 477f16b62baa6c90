"""Data: rows of files, hub data sets and generators become the problems of each step, as token ids.

Input: rows. Output: `Problem` and `Prompt`, and responses that others wrote.

    readers.py, rows.py         rows of one file; of any source
    columns.py, turns.py        the fields of a row by the names that a task has for them; conversations
    layouts/                    rows as verl, TRL and others write them; multiple choice; dotted paths
    row_report.py               what is wrong with rows, in one message
    row_selection.py            which rows are used, in which order
    decontamination.py          training and evaluation data kept apart
    problems.py, curriculum.py  problems, and which of them a step takes
    mixture.py                  of which task they are
    written_rows.py             pairs, labels and demonstrations as conversations
    offline.py                  these as the same records as sampled responses
    prompts/                    problems as text and tokens
    turn_formats/               tool calls in what the policy writes, and the tokens between its turns
"""
