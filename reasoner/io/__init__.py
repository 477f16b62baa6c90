"""Files, network and text from untrusted sources: bounded reads, atomic writes, redacted output.

It knows nothing of runs, models or training.

    parsing.py, bounded_files.py    JSON, TOML and files of strangers, within bounds
    serialization.py, parquet.py    records as JSON and JSON lines, and as Parquet, both ways
    atomic_files.py, folder_lock.py complete or not there; one process at a time
    http_json.py                    requests to services
    redaction.py, safe_text.py      no secrets and no control characters in what is stored or shown
    token_array.py                  one number per token
    metric_history.py               the metrics of all steps, compactly
    terminal.py                     the terminal
"""
