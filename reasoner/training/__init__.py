"""The stages of `reasoner.pipeline`: rollouts, updates, checkpoints and weight sync.

build/, trainer.py          opens what a run works with; the stages
rollout.py, prefetch.py     a step's groups, sampled and scored, now or during the update before
update.py, critic_update.py optimiser steps: the policy's, the critic's
objective_inputs.py         a batch as the tensors that the objective reads
synced_sampler.py, weight_sync.py  the sampler at the learner's weights; learner to sampler, with a receipt
checkpointing.py            when a checkpoint is written, and which ones stay
evaluator.py, held_out.py   the policy on held-out problems; offline responses kept aside
guards/                     what ends a run that would train on nonsense
"""
