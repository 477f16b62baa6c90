"""The learner: weights of tokens in, a new policy out; it knows no algorithm.

Group + weights --batching/--> micro-batches --model/--> log-probabilities, gradient --optimizer.py--> step
learner.py       the protocol
factory.py       chooses torch_engine.py (one process) or deepspeed/ (several)
adapter.py, critic.py, schedule.py   LoRA, PPO's value model, the learning rate
"""
