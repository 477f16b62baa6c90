"""Starting ranks: launcher.py on this node, ssh.py on others (cluster.py: which), coordination.py: what launchers tell
each other."""
