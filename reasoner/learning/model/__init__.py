"""The packed forward pass of a transformers model.

Input: packed tokens. Output: log-probabilities with their gradient.

    options.py                  how a model is loaded, and how sequences go through it
    backbone.py                 tokens to hidden states
    quantization.py             frozen linear layers in 4 bits (QLoRA)
    model_weights.py            the weights in memory, read and written
    attention.py, rotary.py     attention within rows of a flat sequence; frequencies that depend on a row's length
    logprobs.py                 hidden states to log-probabilities, without all logits at once
    routing.py                  how evenly the routers of a mixture of experts spread the tokens of a response
    replay.py                   the sampler's experts, chosen again
    policy.py                   responses scored by all of these
"""
