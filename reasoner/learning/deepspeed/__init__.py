"""The learner on DeepSpeed.

engine.py                   the learner
settings.py                 `[learning]` as a DeepSpeed configuration
state.py                    checkpoints that fit any ZeRO stage and number of ranks
"""
