"""Generalized REINFORCE Optimization: from credit and log-probabilities to one weight per token (arXiv 2503.19523).

`terms`, `presets`, `schedules` and `algorithms` are data and import no torch; the rest are pure functions of tensors.
"""
