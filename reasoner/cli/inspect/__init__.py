"""Commands that show what there is: tasks, algorithms, rewards, plugins, config."""
