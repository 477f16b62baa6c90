"""The learner on DeepSpeed: engine.py, its configuration settings.py, and state.py: checkpoints for any stage and
rank."""
