"""Samplers: groups of responses from the policy (`base.Sampler`), by vLLM or transformers (`factory.open_sampler`)."""
