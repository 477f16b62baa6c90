"""vLLM servers, here or on other machines, and `reasoner serve`.

    sampler.py --scheduler.py--> client.py --HTTP--> entrypoint.py: vLLM's own server behind auth.py

`compatibility.py` asks servers before a run whether they are those that it needs; `serve.py` starts and ends one.
"""
