"""Samplers: vLLM, servers of it, and transformers behind one protocol.

In come prompts and weights, out come groups of responses, each token with its log-probability.

    base.py, factory.py         the protocol; which sampler a configuration gets
    vllm/, server/              vLLM in a process of its own; vLLM servers
    transformers.py             transformers, in this process; decoding.py: its next tokens
    responses.py, sharded.py    what all samplers share; sampling on every rank
"""
