"""Samplers: groups of responses from the policy (`base.Sampler`).

    Prompt --factory.py: vllm/ | server/ | transformers.py--> Group of Response (tokens, log-probabilities)

`responses.py` is what all of them share; `sharded.py` samples on every rank. Weights come in through `load`.
"""
