"""Inference engines: vLLM, vLLM servers and transformers behind one protocol.

Input: prompts and weights. Output: groups of responses, each token with its log-probability.

    base.py, factory.py         the protocols: groups of responses, and the tokens below; which one a configuration gets
    vllm/, server/              vLLM in a process of its own; vLLM servers
    transformers.py             transformers, in this process; batch.py, decoding.py: its batch and its next tokens;
                                routes.py: the experts that it chose
    responses.py, sharded.py    what all samplers share; sampling on every rank
"""
