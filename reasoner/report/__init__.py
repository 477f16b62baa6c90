"""Reports of finished, failed and running runs: one HTML file that needs nothing else, or short Markdown.

Input: run folders. Output: files.

    collect.py, compare.py      everything that is shown, computed; what differs between runs
    choose.py, responses.py     which responses, and as JSON; pieces.py: tokens as text
    page.py, text.py, write.py  HTML, Markdown, and these as files
    panels.py, charts/          which charts there are; charts as SVG
    tiles.py, words.py          the headline; sentences that both forms share
    model_card.py               a model to hand on, with its card
"""

TOKENS = 2_000_000
"""response tokens in an HTML report, unless told otherwise: a file of about 8 MB"""
