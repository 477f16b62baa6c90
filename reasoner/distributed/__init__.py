"""The processes that train together.

ranks.py      who am I, and how do ranks exchange values
sharding.py   whole groups over ranks, balanced by tokens
seeds.py      every random number's seed, from the run's seed and what it is for
"""
