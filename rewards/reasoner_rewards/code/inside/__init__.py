"""What runs in sandboxes: `stub.py` beside the model's program, `driver.py` with the tests in another one.

Both use `codec.py`, which runs outside as well. Nothing here imports anything but the standard library.
"""
