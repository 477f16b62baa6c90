"""Problems as text and tokens of a model.

Input: a `Problem` and a model's tokenizer. Output: a `Prompt`.

    renderer.py                 chooses chat.py (the model's chat template) or plain.py (one text)
    templates.py                strangers' Jinja templates within bounds, in the process of template_process.py
    chat_probe.py, thinking.py  what a template does; the marks between which models think
    next_turn.py                what a template writes between two responses
    template_date.py            the date that a template writes
    end_of_turn.py              the end of a turn, for those who serve an exported model
    control_tokens.py           control tokens that somebody typed stay text
    vocabulary.py               tokens that the model has no embedding for
"""
