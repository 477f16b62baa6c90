"""The packed forward pass.

backbone.py (hidden states) --attention.py--> logprobs.py (without all logits at once) --> policy.py (scores responses)
"""
