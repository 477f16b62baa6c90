"""vLLM servers, here or on other machines, and `reasoner serve`.

sampler.py, scheduler.py    the sampler; one batch over several servers
client.py                   one server over HTTP
offer.py, pull.py           weights over HTTP: the run's side, and the server's
timed_socket.py             what both read from, with a deadline
policy.py                   a frozen model on servers, which scores responses
compatibility.py            whether servers are those that a run needs
serve.py, entrypoint.py     a server started and ended; its program, behind auth.py
"""
