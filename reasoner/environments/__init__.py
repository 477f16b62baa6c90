"""Environments: tools and environments answer what the policy writes, in processes that can be killed.

In come the turns of a response, out come observations: messages to append, rewards, and whether the response ends.

    base.py                     the protocol
    choose.py                   what the configuration names
"""
