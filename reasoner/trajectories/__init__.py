"""Single-turn and multi-turn rollouts: the sampler of the pipeline, the same for all engines.

In: prompts, an engine that continues token ids (`reasoner.sampling`), and perhaps tools or an environment
(`reasoner.environments`) with a format of turns (`reasoner.data.turn_formats`). Out: groups, each as soon as it is
complete. The tokens of a response are those that went through the model: none is ever made a second time.

    sampler.py       the sampler of the pipeline; ends everything with the iterator
    draw.py          one call of it: every response is a coroutine; collects groups until there are enough
    trajectory.py    one response: generate, read the calls, ask the environment, append what it says
    transcript.py    what a response consists of so far, and the record of it
    joints.py        where a turn ended that was interrupted and continued
    interaction.py   what the policy can interact with: environment, format of turns, limits
    factory.py       opens the interaction that a configuration asks for
    token_client.py  waits for the engine's continuations
"""
