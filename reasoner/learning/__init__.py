"""The learner: token weights in, an updated policy out; it knows no algorithm.

Groups become micro-batches, these log-probabilities and a gradient, and this a step.

    learner.py, factory.py      the protocol; which learner a configuration gets
    torch_engine.py, deepspeed/ one process; several, sharded
    batching/, model/           micro-batches; the packed forward pass
    sequence_parallel.py        rows that several ranks put through the model together
    optimizer.py, schedule.py   AdamW, clipping, the learning rate
    adapter.py, critic.py       LoRA; PPO's value model
    device.py                   the GPU that it shares with a sampler: kernels, memory given back
    perturbing.py               weights changed for a moment, to see that somebody else has taken them
"""
