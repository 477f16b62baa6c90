"""Commands that train, or prepare it: run, plan, doctor, serve, node."""
