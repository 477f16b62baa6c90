"""The processes that train together: ranks, what they exchange, and what each has of a batch.

In come the environment of a launcher and values of one rank, out come those of all.

    ranks.py                    which rank this is, and how ranks exchange values
    exchange.py                 values as bytes: pickled, and arrays as they are
    sharding.py                 a response's row of the batch; whole groups over ranks, balanced by tokens
    seeds.py                    every random number's seed, from the run's seed and what it is for
"""
