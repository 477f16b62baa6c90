"""From rows to problems that the policy can read.

readers.py, rows.py --rows--> problems.py --Problem--> chat_template.py --Prompt--> the sampler
offline.py                        pairs, labels and demonstrations as the same records
columns.py, turns.py, row_report.py, row_selection.py, decontamination.py   what rows are, and which are used
curriculum.py                     which problems a step takes
prompts/                          how the policy reads them
"""
