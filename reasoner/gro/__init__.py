"""Generalized REINFORCE Optimization: from credit and log-probabilities to one weight per token (arXiv 2503.19523).

Pure functions of tensors; the choices that they follow are data.

    inputs.py --> term_plan.py  what is read of a batch; what is fixed of a term before any forward
    objective.py                a weight per token
    credit.py, pairs.py         how good a response or token was; chosen and rejected responses
    evidence.py, links.py       what the policy says of a response; from its distance to an anchor to a weight
    importance.py, kl.py        the sampler's policy against the learner's; distance from the reference
    weights.py, diagnostics.py  what the learner gets; what it looks like
    spec/                       methods as data, without torch
"""
