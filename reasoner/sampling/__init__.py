"""Samplers: groups of responses from the policy (`base.Sampler`), by vLLM, its servers, or transformers (`factory`)."""
