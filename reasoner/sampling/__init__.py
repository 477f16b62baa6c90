"""Samplers: groups of responses from the policy (`base.Sampler`), by vLLM, servers of it, or transformers (`factory`)."""
