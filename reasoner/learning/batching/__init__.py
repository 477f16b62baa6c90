"""From groups to micro-batches.

packing.py                  which tokens go through the model together
shapes.py, inputs.py        where sequences are among them; those as tensors
weighing.py                 from log-probabilities and weights to the loss
"""
