"""The run folder: everything that a run leaves behind, committed step by step."""
