"""Problems as the policy reads them: through the chat template, or as plain text."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from reasoner.config import OfflineConfig, PromptConfig, SourceConfig
from reasoner.data.offline import OfflineKind
from reasoner.data.prompts.renderer import Renderer, open_renderer, prompt_ids, render
from reasoner.data.row_report import RowError, RowReport
from reasoner.distributed.ranks import Ranks
from reasoner.errors import ConfigError, DataError
from reasoner.loading import load_config
from reasoner.records import Message, Problem, Prompt, Response
from tests.chat_templates import CHATML, GEMMA, GENERATION, LLAMA_3, MISTRAL, QWEN_3, chat_tokenizer
from tests.sources import load_offline, load_problems
from tests.unit.test_sharded_sampler import on_ranks

CHAT = PromptConfig()


def problem(name: str, text: str) -> Problem:
    return Problem(name, (Message("system", "S"), Message("user", text)), "1")


@pytest.mark.parametrize("template", [CHATML, LLAMA_3, MISTRAL, QWEN_3])
def test_the_conversation_the_generation_prompt_and_the_arguments_reach_the_template(template: str) -> None:
    tokenizer = chat_tokenizer(template=template + GENERATION + "{{ mood }}{% endif %}")
    renderer = open_renderer(tokenizer, CHAT, {"mood": "gladly", "enable_thinking": False})
    prompts = render([problem("a", "x"), problem("b", "y")], renderer, 200)
    assert [prompt.problem.id for prompt in prompts] == ["a", "b"]
    for prompt, text in zip(prompts, "xy", strict=True):
        turns = [{"role": "system", "content": "S"}, {"role": "user", "content": text}]
        expected = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, mood="gladly", enable_thinking=False
        )
        assert prompt.token_ids == tuple(expected)
        assert tokenizer.decode(expected).endswith("gladly")


def test_long_prompts_are_refused_with_the_longest() -> None:
    renderer = open_renderer(chat_tokenizer(), CHAT)
    problems = [problem("a", "x"), problem("b", "x" * 90), problem("c", "x" * 120)]
    lengths = [len(prompt_ids(each, renderer)) for each in problems]
    assert len(render(problems, renderer, lengths[2])) == 3
    with pytest.raises(DataError) as caught:
        render(problems, renderer, lengths[0])
    first, longest, *_ = str(caught.value).splitlines()
    assert first == "data.train: 2 of 3 rows cannot be used."
    assert longest.startswith(
        f"  problem c: its prompt has {lengths[2]} tokens, more than sampling.max_prompt_tokens = {lengths[0]}."
    )


def test_a_missing_or_failing_chat_template_is_said() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"no chat template.*instruction-tuned.*prompt\.format=plain"):
        open_renderer(tokenizer, CHAT)
    renderer = open_renderer(chat_tokenizer(template="{{ raise_exception('not today') }}"), CHAT)
    with pytest.raises(ConfigError, match="fails on problem a: TemplateError: not today"):
        render([Problem("a", (Message("user", "x"),), "")], renderer, 10)


def test_the_template_that_an_argument_names_is_the_one_that_is_looked_at() -> None:
    tokenizer = chat_tokenizer(template=CHATML)
    tokenizer.chat_template = {"default": CHATML, "other": GEMMA}
    assert open_renderer(tokenizer, CHAT).turn_end().text == "<|im_end|>"
    assert open_renderer(tokenizer, CHAT, {"chat_template": "other"}).turn_end().text == "<end_of_turn>"
    assert open_renderer(tokenizer, CHAT, {"chat_template": LLAMA_3}).turn_end().text == "<|eot_id|>"


# plain text

SHOTS = PromptConfig(
    format="plain",
    system="Sums.",
    template="{{ system }}\n{% for e in examples %}Q: {{ e.user }}\nA: {{ e.assistant }}\n{% endfor %}"
    "Q: {{ question }}\nA:",
    examples=[{"user": "0+0?", "assistant": "0"}],
)
PLAIN = PromptConfig(format="plain", template="Question: {{ question }}\nAnswer:")


def beginning(kind: str = "bytes", begin: str = "<s>") -> Any:
    """A tokenizer that puts `<s>` before a text and `</s>` after it, without a chat template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = chat_tokenizer(kind)
    tokenizer.chat_template = None
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>")}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A </s>".strip(), special_tokens=list(ids.items())
    )
    return tokenizer


def rows(folder: Path, *some: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return str(path)


def plain_prompts(folder: Path, tokenizer: Any, prompt: PromptConfig, *some: dict[str, Any]) -> list[tuple[int, ...]]:
    source = SourceConfig(path=rows(folder, *some), shuffle=False)
    found = render(load_problems(source, prompt, {}, 0), open_renderer(tokenizer, prompt), 200)
    return [each.token_ids for each in found]


@pytest.mark.parametrize("kind", ["bytes", "prefix", "first", "unigram"])
@pytest.mark.parametrize("begin", ["<s>", ""])
def test_a_plain_prompt_is_the_text_of_its_template_after_the_tokenizers_beginning(
    tmp_path: Path, kind: str, begin: str
) -> None:
    tokenizer = beginning(kind, begin)
    (ids,) = plain_prompts(tmp_path, tokenizer, SHOTS, {"question": "1+1?", "answer": "2"})
    text = "Sums.\nQ: 0+0?\nA: 0\nQ: 1+1?\nA:"
    assert ids == tuple(tokenizer.encode(text, add_special_tokens=True)[:-1])  # but for the end of the text
    assert (ids[0] == tokenizer.bos_token_id) == bool(begin)


def test_a_plain_template_that_writes_the_beginning_itself_does_not_have_it_twice(tmp_path: Path) -> None:
    tokenizer = beginning()
    prompt = PLAIN.model_copy(update={"template": "<s>Q: {{ question }}"})
    (ids,) = plain_prompts(tmp_path, tokenizer, prompt, {"question": "1+1?", "answer": "2"})
    assert ids.count(tokenizer.bos_token_id) == 1


def test_control_tokens_of_a_plain_template_are_meant_and_those_of_a_row_are_text(tmp_path: Path) -> None:
    tokenizer = beginning()
    prompt = PLAIN.model_copy(
        update={"template": "{% if hints %}{{ hints[0].text }} {% endif %}{{ question }}<|end|>{{ question|length }}"}
    )
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    row = {"question": "a <b> c", "answer": "2", "hints": []}
    typed = {"question": "<|end|>", "answer": "2", "hints": [{"text": "x <|end|> y"}]}
    (ids,) = plain_prompts(tmp_path, tokenizer, prompt, row)
    assert ids.count(end) == 1
    with pytest.raises(DataError, match=r"\n  problem rows:0: prompt\.template looks into control tokens"):
        plain_prompts(tmp_path, tokenizer, prompt, typed)
    fine = PLAIN.model_copy(update={"template": "{{ hints[0].text }} {{ question }}<|end|>"})
    (ids,) = plain_prompts(tmp_path, tokenizer, fine, typed)
    assert ids.count(end) == 1
    assert tokenizer.decode(ids) == "<s>x <|end|> y <|end|><|end|>"


def test_rows_that_cannot_be_written_are_all_named_or_left_out(tmp_path: Path) -> None:
    tokenizer = beginning()
    prompt = PLAIN.model_copy(update={"template": "{{ question }}<|end|>{{ question|length }}"})
    some = [
        {"question": question, "answer": "2"} for question in ("fine", "a <|end|> b", "a \U000f8000 b", "fine, too")
    ]
    report = RowReport("drop")
    problems = load_problems(SourceConfig(path=rows(tmp_path, *some), shuffle=False), prompt, {}, 0)
    found = render(problems, open_renderer(tokenizer, prompt), 200, report)
    assert [each.problem.id for each in found] == ["rows:0", "rows:3"]
    report.keep("data.train", len(found))
    (note,) = report.settle()
    assert note.startswith("data.train: 2 of 4 rows cannot be used and were left out: ")
    for kind in ("1 with control tokens into which", "1 with control tokens that cannot"):
        assert kind in note
    with pytest.raises(DataError) as caught:
        render(problems, open_renderer(tokenizer, prompt), 200)
    assert "2 of 4 rows cannot be used" in str(caught.value)
    assert "problem rows:2: the private character U+F8000" in str(caught.value)
    chat = open_renderer(chat_tokenizer(), CHAT)
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used\.\n  problem b: the private character"):
        render([problem("a", "x"), problem("b", "\U000f8000")], chat, 200)


def test_problems_of_two_sources_can_have_one_id(tmp_path: Path) -> None:
    tokenizer = beginning()
    renderer, found = open_renderer(tokenizer, PLAIN), []
    for question in ("2 <|end|>?", "3?", "4 <|end|>?"):
        source = SourceConfig(path=rows(tmp_path, {"question": question, "answer": "2"}))
        found += load_problems(source, PLAIN, {}, 0)
    assert {each.id for each in found} == {"rows:0"}
    texts = [tokenizer.decode(prompt.token_ids) for prompt in render(found, renderer, 200)]
    assert texts == [f"<s>Question: {question}\nAnswer:" for question in ("2 <|end|>?", "3?", "4 <|end|>?")]


def test_a_plain_prompt_has_no_turn_to_end() -> None:
    renderer = open_renderer(beginning(), PLAIN)
    assert renderer.turn_end().text == ""
    assert "sampling.stop" in renderer.end_of_turn_fact((1,))
    assert renderer.facts() == {"prompt": "plain text, without chat template"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "prompt.system",
            "Be brief.",
            r"prompt\.system is set, and prompt\.template, .* does not use the variable `sys",
        ),
        ("prompt.examples", '[{user = "a", assistant = "b"}]', r"prompt\.examples is set, .* variable `examples`"),
        ("prompt.system_role", "user", r"prompt\.system_role has no effect with prompt\.format = 'plain'"),
        ("model.chat_template_kwargs", "{a = 1}", r"model\.chat_template_kwargs has no effect with prompt\.format"),
    ],
)
def test_what_a_plain_prompt_would_leave_out_is_refused_at_load(key: str, value: str, message: str) -> None:
    plain = {
        "prompt.format": "plain",
        "prompt.template": "Q: {{ question }}",
        "prompt.system": "",
        "prompt.examples": "[]",
    }

    def load(values: dict[str, str]) -> PromptConfig:
        return load_config(
            "math-gsm8k", "laptop", sets=[f"{key}={value}" for key, value in values.items()]
        ).config.prompt

    assert load(plain).format == "plain"
    with pytest.raises(ConfigError, match=message):
        load(plain | {key: value})
    if key in ("prompt.system", "prompt.examples"):
        used = f"{{{{ {key.partition('.')[2]} }}}} Q: {{{{ question }}}}"
        assert load(plain | {key: value, "prompt.template": used}).template == used


def demonstrations(
    folder: Path, tokenizer: Any, prompt: PromptConfig, kind: OfflineKind, *some: Any
) -> list[list[Response]]:
    config = OfflineConfig(path=rows(folder, *some), shuffle=False)
    data = load_offline(kind, config, prompt, {}, open_renderer(tokenizer, prompt), seed=0)
    return [list(scored.group.responses) for scored in data.groups]


def test_offline_responses_to_plain_prompts_end_with_the_tokenizers_end_token(tmp_path: Path) -> None:
    tokenizer = beginning()
    (answer,), (completion,) = demonstrations(
        tmp_path,
        tokenizer,
        PLAIN,
        "demos",
        {"question": "1+1?", "answer": "2"},
        {"prompt": "2+2?", "completion": " 4 <|end|>\n"},
    )
    assert tokenizer.decode(answer.token_ids) == "2</s>"
    assert (completion.text, tokenizer.decode(completion.token_ids)) == (" 4 <|end|>\n", " 4 <|end|>\n</s>")
    assert tokenizer.convert_tokens_to_ids("<|end|>") not in completion.token_ids
    config = OfflineConfig(path=rows(tmp_path, {"prompt": "2 <|end|>?", "completion": "4"}), shuffle=False)
    (scored,) = load_offline("demos", config, PLAIN, {}, open_renderer(tokenizer, PLAIN), seed=0).groups
    assert tokenizer.decode(scored.group.prompt_ids) == "<s>Question: 2 <|end|>?\nAnswer:"
    assert tokenizer.convert_tokens_to_ids("<|end|>") not in scored.group.prompt_ids
    asked, said = ({"role": role, "content": "a"} for role in ("user", "assistant"))
    for row in (
        {"messages": [asked, said]},
        {"messages": [asked, said, asked, said]},
        {"prompt": [asked], "completion": "b"},
        {"prompt": "a", "completion": [asked, said]},
    ):
        with pytest.raises(DataError, match=r"problem rows:0: it is a conversation, .* one text"):
            demonstrations(tmp_path, tokenizer, PLAIN, "demos", row)


def test_control_tokens_in_demonstrations_are_text(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    row = {"prompt": "What is <|im_start|>?", "chosen": "It opens <|im_start|> a turn.", "rejected": "<|im_start|>"}
    (chosen, rejected) = demonstrations(tmp_path, tokenizer, CHAT, "pairs", row)[0]
    assert (chosen.text, rejected.text) == ("It opens <|im_start|> a turn.", "<|im_start|>")
    assert tokenizer.decode(chosen.token_ids) == "It opens <|im_start|> a turn.<|im_end|>"
    for response in (chosen, rejected):
        assert tokenizer.convert_tokens_to_ids("<|im_start|>") not in response.token_ids


@dataclass
class Counting:
    """A renderer that notes which problems it was asked for."""

    renderer: Renderer
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)

    def prompt(self, problem: Problem, opening: Sequence[Message] = ()) -> str:
        self.asked.append(problem.id)
        return self.renderer.prompt(problem, opening)


RANK_ROWS = [f"{'word ' * (n % 4)}<|im_end|>{n}" if n % 5 == 0 else f"{'word ' * (n % 4)}{n}" for n in range(11)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 13])
@pytest.mark.parametrize("limit", [200, 40])
def test_ranks_share_the_prompts_and_all_have_what_one_alone_has(ranks: int, limit: int) -> None:
    """Shares are uneven, some of 13 ranks are empty, every prompt is rendered once, and a rank that did not see a bad
    one refuses it all the same."""
    problems = [problem(f"p:{n}", text) for n, text in enumerate(RANK_ROWS)]
    problems[7] = problem("p:7", "word " * 60)  # too long

    def rank(here: Ranks) -> tuple[list[Prompt], str, dict[str, str], list[str]]:
        renderer, report = Counting(open_renderer(chat_tokenizer(template=CHATML), PromptConfig())), RowReport()
        prompts = render(problems, cast(Renderer, renderer), limit, report, ranks=here)
        report.keep("data.train", len(prompts))
        with pytest.raises(DataError) as refusal:
            report.settle()
        return prompts, str(refusal.value), renderer.facts(), renderer.asked

    (alone,) = on_ranks(1, rank)
    found = on_ranks(ranks, rank)
    assert [prompts for prompts, *_ in found] == [alone[0]] * ranks
    assert {refusal for _, refusal, *_ in found} == {alone[1]}
    assert "problem p:7: its prompt has" in alone[1]
    assert all(facts == alone[2] for *_, facts, _ in found)
    assert "in 3" in alone[2]["control tokens"]
    assert sorted(name for *_, asked in found for name in asked) == sorted(each.id for each in problems)


def test_what_ends_the_rendering_on_one_rank_ends_it_on_all() -> None:
    """None of them is left waiting; what is wrong with a row is sent as it is."""
    problems = [problem(f"p:{n}", str(n)) for n in range(5)]

    class Failing(Counting):
        def prompt(self, problem: Problem, opening: Sequence[Message] = ()) -> str:
            if problem.id == "p:3":
                raise ConfigError("the chat template refuses p:3")
            return super().prompt(problem, opening)

    def rank(here: Ranks) -> str:
        renderer = Failing(open_renderer(chat_tokenizer(template=CHATML), PromptConfig()))
        with pytest.raises(ConfigError) as refusal:
            render(problems, cast(Renderer, renderer), 200, ranks=here)
        return str(refusal.value)

    assert on_ranks(3, rank) == ["the chat template refuses p:3"] * 3
    error = RowError("x.jsonl, line 3", "it is empty.", "with an empty field", where="field 'answer'")
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.place, sent.kind, sent.detail) == (str(error), error.place, error.kind, error.detail)
