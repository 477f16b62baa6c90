"""Small chat templates with tools, in the manner of public ones, and tokenizers that have their marks.

They are written anew, in the structure that the models' cards and the tool parsers of vLLM document: where the tools
stand, how calls and results are written, what happens to thinking and to several results, and what is refused.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from tests.chat_templates import CONTROL, chat_tokenizer

QWEN_25 = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' + (messages[0].content if messages[0].role == 'system' else 'You are helpful.') }}
    {{- '\n\n# Tools\n\n<tools>' }}
    {%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}
    {{- '\n</tools>\n\nWrite each call within <tool_call></tool_call>.<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant' + ('\n' + m.content if m.content else '') }}
        {%- for call in m.tool_calls %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
"""results stand in a turn of the user, several of them in one"""
QWEN_3 = QWEN_25.replace(
    "{%- for m in messages %}",
    r"""{%- set ns = namespace(last=0) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}""",
).replace(
    r"{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
    r"""{%- set c = m.content %}
        {%- if m.role == 'assistant' and loop.index0 < ns.last %}{%- set c = c.split('</think>')[-1].lstrip('\n') %}
        {%- elif m.role == 'assistant' and '</think>' not in c %}{%- set c = '<think>\n\n</think>\n\n' + c %}
        {%- endif %}
        {{- '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}""",
)
"""thinking before the last question is left out, and an answer without thinking gets an empty block"""
QWEN_CODER = QWEN_25.replace(
    r"""'\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson }}
            {{- '}\n</tool_call>' }}""",
    r"""'\n<tool_call>\n<function=' + call.name + '>' }}
            {%- for key, value in call.arguments.items() %}
                {{- '\n<parameter=' + key + '>\n' + value + '\n</parameter>' }}
            {%- endfor %}
            {{- '\n</function>\n</tool_call>' }}""",
)
"""arguments are written one by one"""
SMOLLM_3 = QWEN_25.replace("<tools>", "<tools_of_the_policy>")
LLAMA_3 = r"""
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools %}{{- 'Environment: ipython\n' }}{%- endif %}
{%- if messages[0].role == 'system' %}
    {{- messages[0].content | trim }}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for m in messages %}
    {%- if loop.first and tools and m.role == 'user' %}
        {{- '<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n\n' }}
        {%- for tool in tools %}{{- tool | tojson(indent=4) + '\n\n' }}{%- endfor %}
        {{- m.content | trim + '<|eot_id|>' }}
    {%- elif m.role == 'tool' or m.role == 'ipython' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}
    {%- elif m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('This model has one call at a time') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""
"""the tools stand in the first question, one call a turn, and results are written as JSON"""
MISTRAL_3 = r"""
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{%- set ns = namespace(turn=0, last=0) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
    {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {%- if (m.role == 'user') != (ns.turn % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.index0 == ns.last %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + (system if loop.index0 == ns.last else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id | length != 9 %}{{- raise_exception('an id has nine letters and digits') }}{%- endif %}
            {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
            {{- ', "id": "' + call.id + '"}' + (']' if loop.last else ', ') }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | tojson + ', "call_id": "' + m.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}"""
"""tools and system message stand before the last question, roles alternate, and calls have ids"""
MISTRAL_11 = (
    MISTRAL_3.replace(
        """            {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
            {{- ', "id": "' + call.id + '"}' + (']' if loop.last else ', ') }}""",
        "            {{- call.function.name + '[ARGS]' + call.function.arguments | tojson }}",
    )
    .replace(
        "{{- '[TOOL_CALLS] [' }}\n        {%- for call in m.tool_calls %}",
        "{%- for call in m.tool_calls %}{{- '[TOOL_CALLS]' }}",
    )
    .replace(
        """{{- '[TOOL_RESULTS] {"content": ' + m.content | tojson + ', "call_id": "' + m.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}""",
        "{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}",
    )
)
"""a mark before every call, and results as they are"""
DEEPSEEK_V3 = r"""
{{- bos_token }}
{%- set ns = namespace(tool=false) %}
{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content }}{%- endif %}{%- endfor %}
{%- for tool in tools or [] %}{{- '\n## ' + tool.function.name + '\n' + tool | tojson }}{%- endfor %}
{%- for m in messages %}
    {%- if ns.tool and m.role != 'tool' %}{{- '<｜tool▁outputs▁end｜>' }}{%- endif %}
    {%- if m.role == 'user' %}
        {{- '<｜User｜>' + m.content }}
    {%- elif m.tool_calls %}
        {{- ('' if ns.tool else '<｜Assistant｜>') + '<｜tool▁calls▁begin｜>' }}
        {%- for call in m.tool_calls %}
            {{- ('' if loop.first else '\n') + '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' }}
            {{- call.function.name + '\n```json\n' + call.function.arguments + '\n```<｜tool▁call▁end｜>' }}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜>' + eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ('' if ns.tool else '<｜Assistant｜>') + m.content.split('</think>')[-1] + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- ('' if ns.tool else '<｜tool▁outputs▁begin｜>') + '<｜tool▁output▁begin｜>' + m.content }}
        {{- '<｜tool▁output▁end｜>' }}
    {%- endif %}
    {%- set ns.tool = m.role == 'tool' %}
{%- endfor %}
{%- if ns.tool %}{{- '<｜tool▁outputs▁end｜>' }}
{%- elif add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}"""
"""arguments are JSON text, several results are one block, and nothing opens the response after it"""
DEEPSEEK_R1 = DEEPSEEK_V3.replace(
    "{{- '<｜Assistant｜>' }}{%- endif %}", r"{{- '<｜Assistant｜><think>\n' }}{%- endif %}"
)
"""the same, and the thinking of every response to a question is opened"""
GLM_45 = r"""
{{- '[gMASK]<sop>' }}
{%- if tools %}
    {{- '<|system|>\n# Tools' }}
    {%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|observation|>' }}{%- endif %}
        {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
    {%- else %}
        {{- '<|' + m.role + '|>\n' + m.content }}
        {%- for call in m.tool_calls or [] %}
            {{- '\n<tool_call>' + call.function.name }}
            {%- for key, value in call.function.arguments.items() %}
                {{- '\n<arg_key>' + key + '</arg_key>\n<arg_value>' + value + '</arg_value>' }}
            {%- endfor %}
            {{- '\n</tool_call>' }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""
"""the beginning of what comes next ends a response: `<|observation|>` one that calls a tool"""
PHI_4 = r"""
{%- for m in messages %}
    {{- '<|' + m.role + '|>' + m.content }}
    {%- if m.role == 'system' and tools %}{{- '<|tool|>' + tools | tojson + '<|/tool|>' }}{%- endif %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}"""
"""the tools stand in the system message, and calls are not written"""
GEMMA_3 = r"""
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set before = messages[0].content + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set before = '' %}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (before if loop.first else '') }}
    {{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""
"""without tools, roles alternate, and the system message is part of the first question"""

MARKS = (
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    *("<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>"),
    *("<|python_tag|>", "<|eom_id|>", "<|observation|>", "<|tool|>", "<|/tool|>"),
)
"""special tokens"""
PLAIN_MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""tokens that their tokenizers do not call special"""


def tool_tokenizer(template: str, kind: str = "bytes") -> Any:
    """A tokenizer with the marks of all these templates."""
    tokenizer = chat_tokenizer(kind, (*CONTROL, *MARKS), template)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN_MARKS])
    return tokenizer
