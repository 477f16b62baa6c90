"""From groups to micro-batches: packing.py (which tokens go together), inputs.py (as tensors), weighing.py (the
loss)."""
