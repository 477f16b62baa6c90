"""Preference pairs, labelled responses and demonstrations as scored groups."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from reasoner.config import OfflineConfig, PromptConfig
from reasoner.data.decontamination import normal_text
from reasoner.data.offline import OfflineData, OfflineKind, OfflineRows, read_offline, render_offline
from reasoner.data.prompts.renderer import Renderer, open_renderer, render
from reasoner.data.row_report import RowReport
from reasoner.distributed.ranks import Ranks
from reasoner.errors import ConfigError, DataError
from reasoner.records import Message, Problem, ScoredGroup
from tests.sources import load_offline
from tests.tiny import CHAT_TEMPLATE, build_tiny_model
from tests.unit.test_sharded_sampler import on_ranks

PLAIN = PromptConfig()
USER = {"role": "user", "content": "1+1?"}
GOOD = {"role": "assistant", "content": "It is 2."}
BAD = {"role": "assistant", "content": "It is 3, I think."}
OPENING = (Message("user", "1+1?"),)
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if closed %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def source(folder: Path, *rows: Any, **settings: Any) -> OfflineConfig:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return OfflineConfig(path=str(path), **{"shuffle": False, **settings})


def load(
    kind: OfflineKind, config: OfflineConfig, tokenizer: Any, prompt: PromptConfig = PLAIN, **template_kwargs: Any
) -> OfflineData:
    return load_offline(kind, config, prompt, {}, open_renderer(tokenizer, prompt, template_kwargs), seed=0)


def texts(scored: ScoredGroup) -> list[str]:
    return [response.text for response in scored.group.responses]


def asked(data: OfflineData) -> list[tuple[Message, ...]]:
    return [scored.group.problem.messages for scored in data.groups]


def test_a_pair_becomes_a_scored_group_with_the_chosen_response_first(tmp_path: Path, tokenizer: Any) -> None:
    row = {"prompt": "1+1?", "chosen": "It is 2.", "rejected": "It is 3, I think.", "origin": "hand"}
    (scored,) = load("pairs", source(tmp_path, row), tokenizer).groups
    assert scored.rewards == (1.0, 0.0)
    assert scored.components == ((), ())
    assert scored.group.problem == Problem("set:0", OPENING, "", row)
    assert texts(scored) == ["It is 2.", "It is 3, I think."]
    chosen = scored.group.responses[0]
    assert tokenizer.decode(chosen.token_ids) == "It is 2.<|im_end|>"
    assert chosen.token_ids[-1] == tokenizer.eos_token_id
    assert chosen.policy_mask == (True,) * len(chosen.token_ids)
    assert chosen.sampler_logprobs == (0.0,) * len(chosen.token_ids)
    assert (chosen.finish_reason, chosen.policy_version) == ("stop", 0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1?", "chosen": "It is 2.", "rejected": "It is 3, I think."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "1+1?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "It is 2.", "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "1+1?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_every_spelling_of_a_pair_gives_the_same_tokens(tmp_path: Path, tokenizer: Any, row: dict[str, Any]) -> None:
    (scored,) = load("pairs", source(tmp_path, row), tokenizer).groups
    assert scored.group.problem.messages == OPENING
    for response, message in zip(scored.group.responses, (GOOD, BAD), strict=True):
        whole = tokenizer.apply_chat_template([USER, message], tokenize=True, return_dict=False)
        newline = len(tokenizer.encode("\n", add_special_tokens=False))
        assert [*scored.group.prompt_ids, *response.token_ids] == whole[:-newline]


def test_the_prompt_is_the_one_that_fresh_responses_are_sampled_for(tmp_path: Path, tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "Be brief."}, USER, GOOD, {"role": "user", "content": "2+2?"}]
    row = {"messages": [*turns, {"role": "assistant", "content": "4\n\n"}]}
    (scored,) = load("demos", source(tmp_path, row), tokenizer).groups
    assert scored.rewards == (1.0,)
    assert [message.role for message in scored.group.problem.messages] == ["system", "user", "assistant", "user"]
    (prompt,) = render([scored.group.problem], open_renderer(tokenizer, PLAIN), 1000)
    assert scored.group.prompt_ids == prompt.token_ids
    assert tokenizer.decode(scored.group.responses[0].token_ids) == "4\n\n<|im_end|>"


def test_text_prompts_are_asked_like_the_tasks_questions_and_messages_taken_as_they_are(
    tmp_path: Path, tokenizer: Any
) -> None:
    prompt = PromptConfig(
        system="Be brief.", template="Q ({{ level }}): {{ question }}", examples=[{"user": "0+0?", "assistant": "0"}]
    )
    rows = [
        {"prompt": "1+1?", "completion": "2", "level": 3},
        {"question": "2+2?", "answer": 4, "level": 5},
        {"prompt": [USER], "completion": [GOOD]},
    ]
    data = load("demos", source(tmp_path, *rows), tokenizer, prompt)
    before = (Message("system", "Be brief."), Message("user", "0+0?"), Message("assistant", "0"))
    assert asked(data) == [
        (*before, Message("user", "Q (3): 1+1?")),
        (*before, Message("user", "Q (5): 2+2?")),
        OPENING,
    ]
    assert [texts(scored) for scored in data.groups] == [["2"], ["4"], ["It is 2."]]
    with pytest.raises(DataError, match=r"set\.jsonl, line 1: prompt.template does not fit: 'level' is undefined"):
        load("demos", source(tmp_path, {"prompt": "a", "completion": "b"}), tokenizer, prompt)


@pytest.mark.parametrize(
    ("label", "reward"),
    [(True, 1.0), (False, 0.0), (1, 1.0), (0, 0.0), (1.0, 1.0), ("true", 1.0), ("False", 0.0)],
)
def test_labels_are_verdicts(tmp_path: Path, tokenizer: Any, label: Any, reward: float) -> None:
    (scored,) = load("labelled", source(tmp_path, {"prompt": "a", "completion": "b", "label": label}), tokenizer).groups
    assert scored.rewards == (reward,)
    assert texts(scored) == ["b"]


def test_columns_are_mapped_shuffled_limited_and_compressed_files_read(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "more.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"input": f"{n}?", "output": [str(n)], "text": str(n)}) + "\n" for n in range(20))
    config = OfflineConfig(path=str(path), columns={"prompt": "input", "completion": "text"}, limit=5)
    ids = [scored.group.problem.id for scored in load("demos", config, tokenizer).groups]
    assert len(set(ids)) == 5
    assert ids != [f"more:{n}" for n in range(5)]
    for scored in load("demos", config, tokenizer).groups:
        number = scored.group.problem.id.removeprefix("more:")
        assert (scored.group.problem.messages, texts(scored)) == ((Message("user", f"{number}?"),), [number])


def test_generated_problems_are_demonstrations(tokenizer: Any) -> None:
    def sums(count: int, seed: int) -> Any:
        yield from ({"question": f"{n} + {seed}", "answer": n + seed} for n in range(count))

    config = OfflineConfig(generator="sums", limit=2, seed=5, shuffle=False)
    data = load_offline("demos", config, PLAIN, {"sums": sums}, open_renderer(tokenizer, PLAIN), seed=0)
    assert [(scored.group.problem.id, texts(scored)) for scored in data.groups] == [
        ("sums-5:0", ["5"]),
        ("sums-5:1", ["6"]),
    ]


def test_long_rows_are_refused_or_dropped_and_equal_pairs_left_out(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b" * 10},
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": "a", "rejected": "b" * 11},
        {"prompt": "p", "chosen": "a" * 30, "rejected": "b"},
    ]
    (first, *_) = load("pairs", source(tmp_path, *rows), tokenizer).groups
    fits = len(first.group.prompt_ids) + 11  # the end token included
    long = source(tmp_path, *rows, max_tokens=fits)
    with pytest.raises(DataError) as caught:
        load("pairs", long, tokenizer)
    first_line, longest, _, advice = str(caught.value).splitlines()
    assert first_line == "data.pairs: 2 of 3 rows cannot be used."
    assert f"line 4: prompt and longest response have {fits + 20} tokens, more than data.pairs.max_tokens" in longest
    assert advice.endswith("--set data.on_bad_row=drop.")
    report = RowReport("drop")
    data = load_offline("pairs", long, PLAIN, {}, open_renderer(tokenizer, PLAIN), seed=0, report=report)
    assert data.groups == (first,)
    assert data.notes == ("data.pairs: 1 of 4 rows were left out: their two responses are the same.",)
    (dropped,) = report.settle()
    assert dropped.startswith(
        f"data.pairs: 2 of 3 rows cannot be used and were left out: 2 longer than data.pairs.max_tokens = {fits} ("
    )
    with pytest.raises(DataError, match=r"no row is left to train on\. data\.pairs: 1 of 1 rows were left out: their"):
        load("pairs", source(tmp_path, rows[1]), tokenizer)


def test_clean_data_have_no_notes(tmp_path: Path, tokenizer: Any) -> None:
    assert load("demos", source(tmp_path, {"prompt": "p", "completion": " a\n"}), tokenizer).notes == ()


def message(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        (
            "pairs",
            {"prompt": "p", "chosen": "a"},
            r"the field 'rejected' is missing\. .*columns\.rejected=FIELD",
        ),
        ("pairs", {"chosen": "a", "rejected": "b"}, "the field 'prompt' is missing. The row has: chosen, rejected"),
        ("pairs", {"prompt": "p", "chosen": " ", "rejected": "b"}, "field 'chosen': it is empty"),
        (
            "pairs",
            {"prompt": "p", "chosen": GOOD, "rejected": "b"},
            "'chosen': text or a list of messages is needed, got",
        ),
        ("pairs", {"prompt": None, "chosen": "a", "rejected": "b"}, "'prompt': text or a list .* got 'None'"),
        (
            "pairs",
            {"prompt": "p", "chosen": [], "rejected": "b"},
            r"'chosen': a list of .* messages is needed, got '\[\]'",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": [USER], "rejected": [BAD]},
            "'chosen': the last message must be the assistant",
        ),
        ("pairs", {"chosen": [USER, GOOD], "rejected": [message("user"), BAD]}, "'rejected': it continues another"),
        ("pairs", {"prompt": "p", "chosen": [USER, GOOD], "rejected": "b"}, "'rejected': it continues another"),
        (
            "pairs",
            {"prompt": "p", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            "'chosen': .* not repeat .*'prompt'",
        ),
        (
            "pairs",
            {"prompt": [USER, GOOD], "chosen": "a", "rejected": "b"},
            "'prompt': a user message .* from 'assistant'",
        ),
        ("labelled", {"prompt": "p", "completion": "a"}, "the field 'label' is missing"),
        ("labelled", {"prompt": "p", "completion": "a", "label": 4}, "'label': true or false .* got 4. A rating"),
        ("labelled", {"prompt": "p", "completion": "a", "label": "yes"}, "'label': true or false .* got 'yes'"),
        (
            "labelled",
            {"prompt": "p", "completion": "a", "label": None},
            "'label': text or a number is needed, got None",
        ),
        ("demos", {"text": "a"}, r"demonstration needs 'messages', or .*has: text\. .*data\.demos\.columns\.messages="),
        ("demos", {"question": "a"}, "demonstration needs 'messages'"),
        ("demos", {"prompt": "p", "question": "a", "answer": "b"}, "the field 'completion' is missing"),
        ("demos", {"messages": "a"}, "field 'messages': a list of .* messages is needed, got 'a'"),
        ("demos", {"messages": [GOOD]}, "'messages': a user message is needed just before the response; there is none"),
        (
            "demos",
            {"messages": [USER, message("asistant")]},
            "message 2: role = 'asistant' .* Did you mean 'assistant'",
        ),
        ("demos", {"messages": [{"from": "human", "value": "a"}]}, "message 1: an object with role and content"),
        ("demos", {"messages": [USER, message("assistant", None)]}, "message 2: content must be text, got 'None'"),
        ("demos", {"messages": [USER, message("assistant", "\n")]}, "message 2: content is empty"),
        ("demos", {"messages": [USER, message("assistant", tool_calls=["f"])]}, "message 2: .* got also 'tool_calls'"),
        (
            "demos",
            {"prompt": "p", "completion": "a<|im_end|>"},
            r"'completion': it contains '<\|im_end\|>'",
        ),
    ],
)
def test_rows_of_another_shape_are_refused_with_line_and_field(
    tmp_path: Path, tokenizer: Any, kind: OfflineKind, row: Mapping[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=rf"set\.jsonl, line 1.*{expected}"):
        load(kind, source(tmp_path, row), tokenizer)


def test_null_extras_of_a_message_say_nothing(tmp_path: Path, tokenizer: Any) -> None:
    row = {"messages": [USER | {"name": None}, GOOD]}
    assert asked(load("demos", source(tmp_path, row), tokenizer)) == [OPENING]


def test_a_template_that_strips_white_space_is_told(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    data = load("pairs", source(tmp_path, {"prompt": "p", "chosen": " a\n", "rejected": "b"}), tokenizer)
    assert texts(data.groups[0]) == ["a", "b"]
    assert tokenizer.decode(data.groups[0].group.responses[0].token_ids) == "a<|im_end|>"
    assert data.notes == (
        "data.pairs: 1 of 1 rows have other white space around a response once the chat template has written it.",
    )
    same = {"prompt": "p", "chosen": "a ", "rejected": "a"}
    with pytest.raises(DataError, match="their two responses are the same"):
        load("pairs", source(tmp_path, same), tokenizer)


def test_a_template_that_adds_thinking_fits_only_with_a_prompt_that_has_it(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    config = source(tmp_path, {"prompt": "1+1?", "completion": "It is 2."})
    with pytest.raises(
        DataError,
        match=r"line 1, field 'completion': the chat template changes the response: it writes '<think>.*kwargs",
    ):
        load("demos", config, tokenizer)
    (scored,) = load("demos", config, tokenizer, closed=True).groups
    assert tokenizer.decode(scored.group.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(scored.group.responses[0].token_ids) == "It is 2.<|im_end|>"


def test_a_template_that_writes_the_prompt_in_another_way_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    with pytest.raises(DataError, match=r"'completion': .*same way .*: '<think>' without it is 'It is 2\.<\|im_end\|>"):
        load("demos", source(tmp_path, {"prompt": "1+1?", "completion": "It is 2."}), tokenizer)


def test_a_template_that_ends_its_turn_with_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", " [END]")
    with pytest.raises(
        DataError, match=r"'completion': the chat template writes ' \[END\]\\n' after it, which ends no"
    ):
        load("demos", source(tmp_path, {"prompt": "p", "completion": "a"}), tokenizer)


def test_a_special_token_that_is_not_the_tokenizers_own_end_can_end_a_turn(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>\n", "\n<|endoftext|><|im_end|>\n")
    (scored,) = load("demos", source(tmp_path, {"prompt": "p", "completion": "a"}), tokenizer).groups
    assert tokenizer.decode(scored.group.responses[0].token_ids) == "a\n<|endoftext|>"


def test_the_tokenizers_end_token_is_appended_where_the_template_has_none(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "")
    config = source(tmp_path, {"prompt": "p", "completion": "a"})
    (scored,) = load("demos", config, tokenizer).groups
    assert tokenizer.decode(scored.group.responses[0].token_ids) == "a<|im_end|>"
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="neither its chat template nor its tokenizer has a token that ends"):
        load("demos", config, tokenizer)


def test_templates_that_fail_are_said(tmp_path: Path, tokenizer: Any) -> None:
    config = source(tmp_path, {"prompt": "p", "completion": "a"})
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ raise_exception('no answers') }}"
        "{% endif %}{{ message['content'] }}{% endfor %}"
    )
    with pytest.raises(ConfigError, match=r"chat template fails on problem set:0 with its response: .*no answers"):
        load("demos", config, tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        load("demos", config, tokenizer)


class Merging:
    """The tiny tokenizer with a token of two newlines, as larger vocabularies have."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.chat_template, self.eos_token = tokenizer.chat_template, tokenizer.eos_token
        self.added_tokens_decoder = tokenizer.added_tokens_decoder
        self.special_tokens_map = tokenizer.special_tokens_map

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        parts = [self._tokenizer.encode(part, add_special_tokens=add_special_tokens) for part in text.split("\n\n")]
        return [token for at, part in enumerate(parts) for token in ([999] if at else []) + part]

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        return self._tokenizer.apply_chat_template(conversation, **kwargs)


def test_a_token_over_the_border_of_prompt_and_response_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    inside = source(tmp_path, {"prompt": "p", "completion": "a\n\nb"})
    (scored,) = load("demos", inside, Merging(tokenizer)).groups
    assert 999 in scored.group.responses[0].token_ids
    across = source(tmp_path, {"prompt": "p", "completion": "\nb"})
    with pytest.raises(
        DataError, match=r"'completion': a token spans the end of the prompt .*response, '\\nb<\|im_end\|>'"
    ):
        load("demos", across, Merging(tokenizer))


def test_the_shuffle_is_the_runs(tmp_path: Path, tokenizer: Any) -> None:
    config = source(tmp_path, *({"prompt": str(n), "completion": "a"} for n in range(12)), shuffle=True)
    orders = {
        seed: [
            s.group.problem.id
            for s in load_offline("demos", config, PLAIN, {}, open_renderer(tokenizer, PLAIN), seed).groups
        ]
        for seed in (1, 2)
    }
    assert orders[1] != orders[2]
    assert sorted(orders[1]) == sorted(orders[2]) == sorted(f"set:{n}" for n in range(12))


def pairs(*prompts: str) -> list[dict[str, str]]:
    return [{"prompt": prompt, "chosen": f"a{n}", "rejected": f"b{n}"} for n, prompt in enumerate(prompts)]


def test_a_share_of_the_prompts_is_held_out_with_all_of_their_rows(tmp_path: Path, tokenizer: Any) -> None:
    config = source(tmp_path, *pairs(*(f"{n}?" for n in (*range(10), *range(10))), "3 ?"), shuffle=True)

    def split(seed: int) -> tuple[set[str], tuple[str, ...], set[str]]:
        data = load_offline("pairs", config, PLAIN, {}, open_renderer(tokenizer, PLAIN), seed, holdout=0.2)
        sides = [[scored.group.problem for scored in side] for side in (data.groups, data.held_out)]
        train, held_out = ({normal_text(problem.messages[0].content) for problem in side} for side in sides)
        assert not train & held_out
        assert (len(train), len(held_out)) == (8, 2)
        return {problem.id for problem in sides[0]}, tuple(problem.id for problem in sides[1]), held_out

    (first, held_out, _), other = split(1), split(2)
    assert (first, held_out) == other[:2]
    assert len(first) + len(held_out) == 21
    assert len(held_out) >= 4  # two rows of each prompt
    everything = load_offline("pairs", config, PLAIN, {}, open_renderer(tokenizer, PLAIN), 1)
    assert (len(everything.groups), everything.held_out) == (21, ())


def test_bad_rows_of_offline_data_are_named_at_once_or_left_out(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        *pairs("p", "q"),
        {"prompt": "r", "chosen": "", "rejected": "b"},
        {"prompt": "s", "chosen": "a<|im_end|>", "rejected": "b"},
        {"prompt": "t", "rejected": "b"},
        {"prompt": ["u"], "chosen": "a", "rejected": "b"},
        {"prompt": "v" * 500, "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a0", "rejected": "b0"},
    ]
    config = source(tmp_path, *rows, max_tokens=400)
    with pytest.raises(DataError) as caught:
        load("pairs", config, tokenizer)
    first, *named, more, _ = str(caught.value).splitlines()
    assert first == "data.pairs: 6 of 8 rows cannot be used."
    assert [line.split("set.jsonl, line ")[1][0] for line in named] == ["3", "5", "6", "8", "4"]
    assert more == "  and 1 more: 1 longer than data.pairs.max_tokens = 400"
    report = RowReport("drop")
    data = load_offline("pairs", config, PLAIN, {}, open_renderer(tokenizer, PLAIN), seed=0, report=report)
    assert [scored.group.problem.id for scored in data.groups] == ["set:0", "set:1"]
    assert [note.split(" (")[0] for note in report.settle()] == [
        "data.pairs: 5 of 8 rows cannot be used and were left out: 1 with an empty field 'chosen', 1 without the field "
        "'chosen', 1 with a broken message in 'prompt', 1 that the chat template does not fit, 1 longer than "
        "data.pairs.max_tokens = 400",
        "data.pairs: rows that repeat an earlier one and were left out: 1",
    ]


def test_rows_whose_control_tokens_cannot_be_text_are_bad_rows(tmp_path: Path, tokenizer: Any) -> None:
    report = RowReport("drop")
    rows = [
        *pairs("p"),
        {"prompt": "q", "chosen": "a \U000f8000", "rejected": "b"},
        {"prompt": "\U000f8000", "chosen": "a", "rejected": "b"},
    ]
    renderer = open_renderer(tokenizer, PLAIN)
    data = load_offline("pairs", source(tmp_path, *rows), PLAIN, {}, renderer, seed=0, report=report)
    assert [scored.group.problem.id for scored in data.groups] == ["set:0"]
    (note,) = report.settle()
    assert "2 of 3 rows" in note
    assert (
        "2 with control tokens that cannot be written as text (the first: problem set:1, its response: the pri" in note
    )


def test_the_limit_counts_what_is_held_out_too(tmp_path: Path, tokenizer: Any) -> None:
    config = source(tmp_path, *pairs(*(f"{n}?" for n in range(20))), limit=10)
    data = load_offline("pairs", config, PLAIN, {}, open_renderer(tokenizer, PLAIN), seed=0, holdout=0.2)
    assert (len(data.groups), len(data.held_out)) == (8, 2)


# Ranks share the tokenising


@dataclass
class CountingRenderer:
    """A renderer that notes which responses it was asked for, and refuses one of them if it is told to."""

    renderer: Renderer
    refuses: str = ""
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)

    def whole(self, problem: Problem, response: str) -> str:
        if response == self.refuses:
            raise ConfigError(f"the chat template refuses {response}")
        self.asked.append(response)
        return self.renderer.whole(problem, response)


def shared_rows(tmp_path: Path) -> tuple[OfflineConfig, OfflineRows]:
    """Seven pairs: one that is too long, one that the template does not fit, one with white space that it changes."""
    rows = pairs(*(f"{'word ' * n}{'<|im_end|>' if n == 2 else ''}?" for n in range(5)))
    rows[1]["chosen"] = f" {rows[1]['chosen']} "
    rows += [
        {"prompt": "v" * 500, "chosen": "a", "rejected": "b"},
        {"prompt": "u", "chosen": "<|im_end|>", "rejected": "b"},
    ]
    config = source(tmp_path, *rows, max_tokens=400)
    return config, read_offline("pairs", config, PLAIN, {}, 0, None, RowReport("drop"))


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_ranks_share_the_rows_and_all_have_what_one_alone_has(tmp_path: Path, tokenizer: Any, ranks: int) -> None:
    """Shares are uneven, some of nine ranks are empty, and every response is rendered once."""
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    _, rows = shared_rows(tmp_path)

    def rank(here: Ranks) -> tuple[OfflineData, tuple[str, ...], dict[str, str], list[str]]:
        renderer, report = CountingRenderer(open_renderer(tokenizer, PLAIN)), RowReport("drop")
        data = render_offline(rows, cast(Renderer, renderer), 0, None, report, here)
        return data, report.settle(), renderer.facts(), renderer.asked

    (alone,) = on_ranks(1, rank)
    found = on_ranks(ranks, rank)
    assert [scored.group.problem.id for scored in alone[0].groups] == [f"set:{n}" for n in range(5)]
    assert "2 of 7 rows cannot be used" in alone[1][0]
    assert "1 of 7 rows have other white space" in alone[0].notes[0]
    assert alone[2]["control tokens"].endswith("<|im_end|> in 1")
    assert [each[:3] for each in found] == [alone[:3]] * ranks
    assert sorted(text for *_, asked in found for text in asked) == sorted(alone[3])
    assert sum(not asked for *_, asked in found) == max(0, ranks - len(rows.written))


def test_what_ends_the_rendering_of_rows_on_one_rank_ends_it_on_all(tmp_path: Path, tokenizer: Any) -> None:
    _, rows = shared_rows(tmp_path)

    def rank(here: Ranks) -> str:
        renderer = CountingRenderer(open_renderer(tokenizer, PLAIN), refuses=rows.written[3].completions[1].text)
        with pytest.raises(ConfigError) as refusal:
            render_offline(rows, cast(Renderer, renderer), 0, None, RowReport(), here)
        return str(refusal.value)

    assert len(set(on_ranks(3, rank))) == 1
