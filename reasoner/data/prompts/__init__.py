"""Prompts: problems as text and tokens of a model.

renderer.py --> chat.py (its chat template) | plain.py (one text)
chat_probe.py, thinking.py        what a template does; control_tokens.py, vocabulary.py: which tokens may be there
templates.py, template_process.py strangers' Jinja templates, rendered within bounds
"""
