"""Distributed training: ranks, the values that they exchange, and how a batch is sharded over them.

Input: the environment of a launcher and values of one rank. Output: those of all.

    ranks.py                    which rank this is, and how ranks exchange values
    exchange.py                 values as bytes: pickled, and arrays as they are
    remote_tokens.py            summaries of groups for all ranks, and their tokens for those that need them
    sharding.py                 a response's row of the batch; whole groups over ranks, balanced by tokens
    seeds.py                    every random number's seed, from the run's seed and what it is for
"""
