"""Single-turn and multi-turn rollouts: the sampler of the pipeline, the same for all engines.

In: prompts, an engine that continues token ids (`reasoner.sampling`), and perhaps tools or an environment
(`reasoner.environments`) with a format of turns (`reasoner.data.turn_formats`). Out: groups, each as soon as it is
complete. The tokens of a response are those that went through the model: none is ever made a second time.

    sampler.py       every response is a coroutine; collects them into groups, ends all of them with the iterator
    trajectory.py    one response: generate, read the calls, ask the environment, append what it says
    transcript.py    what a response consists of so far, and the record of it
    interaction.py   what the policy can interact with: environment, format of turns, limits
    factory.py       opens the sampler and the interaction that a configuration asks for
    token_client.py  waits for the engine's continuations
"""
