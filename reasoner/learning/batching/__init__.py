"""From groups to micro-batches.

packing.py                  which tokens go through the model together
prefix_tree.py              what responses begin with, once
shapes.py, inputs.py        where sequences are among them; those as tensors
routes.py                   the sampler's experts, as these tokens lie
logit_chunk.py              how many positions have logits at once
weighing.py                 from log-probabilities and weights to the loss
"""
