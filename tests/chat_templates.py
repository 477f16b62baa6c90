"""Small chat templates in the manner of public ones, and tokenizers of several kinds that have their control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

GENERATION = "{% if add_generation_prompt %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + GENERATION
    + "<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}" + GENERATION + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}" + GENERATION + "<start_of_turn>model\n{% endif %}"
)
SYSTEM_LEFT_OUT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}[INST] {{ ns.system if loop.last else '' }}{{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    + GENERATION
    + "<｜Assistant｜><think>\n{% endif %}"
)
QWEN_3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and loop.index0 < ns.last %}{% set c = c.split('</think>')[-1].lstrip('\n') %}"
    "{% elif m.role == 'assistant' and '</think>' not in c %}{% set c = '<think>\n\n</think>\n\n' + c %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
    + GENERATION
    + "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    + GENERATION
    + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
SMOLLM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    + CHATML
)
GLM_4 = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    + GENERATION
    + "<|assistant|>{% endif %}"
)
MAGISTRAL = MISTRAL + GENERATION + "[THINK]{% endif %}"
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
    "{% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }} {% else %}{{ m.content }} {% endif %}{% endfor %}"
    + GENERATION
    + "ASSISTANT:{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}\n\n{% else %}{{ m.content }}\n\n{% endif %}"
    "{% endfor %}" + GENERATION + "### Response:\n{% endif %}"
)
BARE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"

CONTROL = (
    *("<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>"),
    *(
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "[INST]",
        "[/INST]",
        "<｜User｜>",
    ),
    *("<｜Assistant｜>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[gMASK]", "<sop>"),
)
CORPUS = [
    "What is 1+1? How many legs do three horses and two birds have together? user assistant system model",
    "Think step by step. The answer is \\boxed{42}. <|im_end|> and </s> are tokens of models, <b>bold</b> is not.",
    "It is 2.\n\nWhy?\n  Because one and one are two, isn't it? Ja, schön! Ünïcödé 中文 text 123 456",
] * 4


def chat_tokenizer(kind: str = "bytes", control: Sequence[str] = CONTROL, template: str = CHATML, **flags: Any) -> Any:
    """A tokenizer that was trained on a few sentences, and then got its control tokens.

    Args:
        kind: `bytes` (byte-level BPE), `prefix` (a space before every piece between control tokens, as Llama 2 has it),
            `first` (before the first one alone), `unigram` or `words` (WordPiece, lower case).
        flags: of the control tokens (`special`, `normalized`, `rstrip`).
    """
    core = Tokenizer.from_str(_trained(kind))
    core.add_tokens([AddedToken(text, **{"special": True, "normalized": False, **flags}) for text in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=control[0],
        eos_token=control[1],
        unk_token=control[2],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


@cache
def _trained(kind: str) -> str:
    """Trained once: another time would give other tokens."""
    core, trainer = _core(kind)
    core.train_from_iterator(CORPUS, trainer)
    return core.to_str()


def _core(kind: str) -> tuple[Tokenizer, Any]:
    alphabet = sorted(
        {char for text in CORPUS for char in text} | set("{}[]()<>|/_-+*=%$#@!?.,:;'\"\\ abcdefghijklmnopqrstuvwxyz")
    )
    size: dict[str, Any] = {"vocab_size": 420, "show_progress": False}
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        return core, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **size)
    if kind == "prefix":
        core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        return core, trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, **size)
    if kind == "first":
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
        return core, trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, **size)
    if kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        special: dict[str, Any] = {"special_tokens": ["<s>", "</s>", "<unk>"], "unk_token": "<unk>"}
        return core, trainers.UnigramTrainer(initial_alphabet=alphabet, **special, **size)
    assert kind == "words"
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return core, trainers.WordPieceTrainer(special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, **size)
