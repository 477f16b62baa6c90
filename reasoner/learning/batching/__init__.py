"""From groups to micro-batches.

packing.py                  which tokens go through the model together
inputs.py                   those as tensors
weighing.py                 from log-probabilities and weights to the loss
"""
