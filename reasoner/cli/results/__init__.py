"""Commands that look at runs: runs, report, eval, score, export."""
