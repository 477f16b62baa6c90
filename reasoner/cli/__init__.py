"""The command line: app.py registers one file per command; console.py prints, options.py are shared."""
