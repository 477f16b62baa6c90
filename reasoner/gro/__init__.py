"""Generalized REINFORCE Optimization: from credit and log-probabilities to one weight per token (arXiv 2503.19523).

`terms` and `presets` are data and import no torch; `credit`, `links` and `objective` are pure functions of tensors.
"""
