"""Reports of finished, failed and running runs: one HTML file that needs nothing else, or short Markdown.

Above `runs` (what a folder holds) and `reporting` (words and figures); only the command line is above it.
"""

TOKENS = 2_000_000
"""response tokens in an HTML report, unless told otherwise: a file of about 8 MB"""
