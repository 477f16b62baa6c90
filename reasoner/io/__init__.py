"""Files, network and text that others may have made: read within bounds, written whole, shown without secrets.

    serialization.py (records as JSON and Parquet), parsing.py, bounded_files.py   what is read
    atomic_files.py, folder_lock.py                                                what is written
    http_json.py                                                                   requests to services
    redaction.py, safe_text.py, terminal.py                                        what is shown

It knows nothing of runs, models or training.
"""
