"""Training: the stages of `reasoner.pipeline`.

build.py --> trainer.py (Stages): rollout.py, prefetch.py --> update.py, critic_update.py --> checkpointing.py
weight_sync.py (learner to sampler, with a receipt), guards/ (what ends a run that would train on nonsense)
"""
