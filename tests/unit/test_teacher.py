"""A teacher's credit: direction and sign, proved on a tiny vocabulary; what it reads, and which teacher is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reasoner.config.config import Config
from reasoner.data.prompts.renderer import open_renderer
from reasoner.distributed.ranks import Ranks
from reasoner.distributed.sharding import ShardedPolicy, rows_by_group, shares_of
from reasoner.errors import ConfigError, DataError, SamplerError, UserError
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.objective import weigh
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import KL, Advantage, Aggregation, Teacher, Term
from reasoner.gro.term_plan import credit_of, plan
from reasoner.loading import load_config
from reasoner.models.tokenizer import open_tokenizer
from reasoner.planning.resources import _teacher_folder
from reasoner.planning.teacher import check_same_tokenizer, teacher_prompts
from reasoner.records import Batch, Group, Message, Problem, Prompt, Response, ScoredGroup
from reasoner.sampling.server.compatibility import ServerRequirements
from reasoner.sampling.server.policy import ServedPolicy
from reasoner.training.build.models import SolutionReader
from reasoner.training.update import teacher_kl
from tests.tiny import build_tiny_model
from tests.unit.fake_vllm import fake_servers

END, TOKENS, LONGEST = 2, 3, 4
OPD = PRESETS["opd"].term
WHOLE = Aggregation("response-sum")
"""whose normaliser does not depend on what was sampled"""


@dataclass(frozen=True)
class World:
    """A policy and a teacher over three tokens, one of which ends a response, and a tool that answers token 1.

    A response has up to `LONGEST` tokens; a token that follows token 1 is the tool's: 0 or 1 with equal probability,
    whatever the policy is.
    """

    policy: Mapping[tuple[int, ...], Tensor]
    """prefix -> logits, leaves"""
    teacher: Mapping[tuple[int, ...], Tensor]

    @classmethod
    def random(cls, seed: int) -> World:
        generator = torch.Generator().manual_seed(seed)
        prefixes = [prefix for prefix in cls.prefixes(()) if not cls.of_tool(prefix)]

        def draw() -> Tensor:
            return torch.randn(TOKENS, generator=generator, dtype=torch.float64)

        return cls({prefix: draw().requires_grad_() for prefix in prefixes}, {prefix: draw() for prefix in prefixes})

    @staticmethod
    def of_tool(prefix: tuple[int, ...]) -> bool:
        """Whether the tool writes the next token."""
        own = True
        for token in prefix:
            own = not (own and token == 1)
        return not own

    @classmethod
    def prefixes(cls, prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """All that something follows."""
        if len(prefix) < LONGEST and (not prefix or prefix[-1] != END):
            yield prefix
            for token in (0, 1) if cls.of_tool(prefix) else range(TOKENS):
                yield from cls.prefixes((*prefix, token))

    @classmethod
    def responses(cls) -> list[tuple[int, ...]]:
        """All whole ones."""
        going = set(cls.prefixes(()))
        longer = {(*p, t) for p in going for t in ((0, 1) if cls.of_tool(p) else range(TOKENS))}
        return sorted(longer - going)

    def logprobs(self, logits: Mapping[tuple[int, ...], Tensor], response: tuple[int, ...]) -> list[Tensor]:
        """Of each token; 0 where the tool wrote it."""
        return [
            torch.zeros((), dtype=torch.float64)
            if self.of_tool(response[:t])
            else torch.log_softmax(logits[response[:t]], dim=0)[token]
            for t, token in enumerate(response)
        ]

    def mask(self, response: tuple[int, ...]) -> list[bool]:
        return [not self.of_tool(response[:t]) for t in range(len(response))]

    def probability(self, response: tuple[int, ...]) -> Tensor:
        """Under policy and tool; also of a prefix."""
        by_tool = 0.5 ** self.mask(response).count(False)
        return (
            torch.stack([*self.logprobs(self.policy, response), torch.zeros((), dtype=torch.float64)]).sum().exp()
            * by_tool
        )

    def gradient(self, of: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(of, list(self.policy.values())))


def inputs_of(world: World, responses: list[tuple[int, ...]]) -> ObjectiveInputs:
    """One group each, none of them scored."""

    def padded(rows: list[list[float]]) -> Tensor:
        return torch.tensor([[*row, *[float("nan")] * (LONGEST - len(row))] for row in rows], dtype=torch.float64)

    masks = [[*world.mask(y), *[False] * (LONGEST - len(y))] for y in responses]
    return ObjectiveInputs(
        rewards_NG=torch.full((len(responses), 1), float("nan"), dtype=torch.float64),
        valid_NG=torch.zeros(len(responses), 1, dtype=torch.bool),
        mask_RT=torch.tensor(masks),
        old_RT=padded([[each.item() for each in world.logprobs(world.policy, y)] for y in responses]),
        teacher_RT=padded([[each.item() for each in world.logprobs(world.teacher, y)] for y in responses]),
    )


def weights_of(world: World, term: Term) -> dict[tuple[int, ...], Tensor]:
    """Response -> its tokens' weights when it is a batch alone."""
    found = {}
    for response in world.responses():
        inputs = inputs_of(world, [response])
        here = plan("opd", term, inputs, credit_of(term, inputs), LONGEST)
        assert inputs.old_RT is not None
        found[response] = weigh([here], inputs, [0], inputs.old_RT)[0].weights_RT[0]
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_the_expected_gradient_is_that_of_the_reverse_kl(seed: int, discount: float) -> None:
    """sum_y pi(y) sum_t w_t grad log pi(y_t), over all responses: ragged, cut at the limit, of one token, with tokens
    of a tool. Discount 1: minus the gradient of KL(pi || pi_T) over responses. 0: of the next token's KL, summed over
    the prefixes that the policy gets to, which are taken as they come."""
    world = World.random(seed)
    term = replace(OPD, credit=Teacher(discount=discount), aggregation=WHOLE)
    expected = torch.zeros((), dtype=torch.float64)
    for y, weights_T in weights_of(world, term).items():
        for logprob, weight in zip(world.logprobs(world.policy, y), weights_T, strict=False):
            expected = expected + world.probability(y).detach() * weight.item() * logprob
    kl = torch.zeros((), dtype=torch.float64)
    if discount:
        for y in world.responses():
            ratio = sum(world.logprobs(world.policy, y)) - sum(world.logprobs(world.teacher, y))
            kl = kl + world.probability(y) * ratio
    else:
        for prefix, logits in world.policy.items():
            own, teacher = torch.log_softmax(logits, dim=0), torch.log_softmax(world.teacher[prefix], dim=0)
            kl = kl + world.probability(prefix).detach() * (own.exp() * (own - teacher)).sum()
    ascent, of_kl = world.gradient(expected), world.gradient(kl)
    assert max(float(part.abs().max()) for part in of_kl) > 0.05
    for mine, exact in zip(ascent, of_kl, strict=True):
        torch.testing.assert_close(mine, -exact, rtol=1e-10, atol=1e-12)


def test_a_step_along_the_weights_brings_the_policy_nearer_to_its_teacher() -> None:
    world = World.random(7)

    def kl() -> float:
        total = 0.0
        for y in world.responses():
            own, teacher = (sum(p.item() for p in world.logprobs(of, y)) for of in (world.policy, world.teacher))
            total += world.probability(y).item() * (own - teacher)
        return total

    before = kl()
    for _ in range(50):
        goal = torch.zeros((), dtype=torch.float64)
        for y, weights_T in weights_of(world, replace(OPD, aggregation=WHOLE)).items():
            for logprob, weight in zip(world.logprobs(world.policy, y), weights_T, strict=False):
                goal = goal + world.probability(y).detach() * weight.item() * logprob
        for leaf, slope in zip(world.policy.values(), world.gradient(goal), strict=True):
            leaf.data += 0.5 * slope
    assert kl() < 0.1 * before


def test_credit_token_by_token_and_with_what_comes_after() -> None:
    """Ragged, a token that the policy did not write, an abstained response, one of a single token; padding is NaN."""
    nan = float("nan")
    inputs = ObjectiveInputs(
        rewards_NG=torch.tensor([[1.0, nan, 0.0]], dtype=torch.float64),
        valid_NG=torch.tensor([[True, False, True]]),
        mask_RT=torch.tensor([[True, False, True], [True, True, False], [True, False, False]]),
        old_RT=torch.tensor([[-1.0, nan, -2.0], [-0.5, -1.0, nan], [-3.0, nan, nan]]),
        teacher_RT=torch.tensor([[-2.0, nan, -1.5], [-0.5, -2.0, nan], [-1.0, nan, nan]]),
    )
    assert credit_of(OPD, inputs).tolist() == [[-1.0, 0.0, 0.5], [0.0, -1.0, 0.0], [2.0, 0.0, 0.0]]
    half = replace(OPD, credit=Teacher(discount=0.5))
    assert credit_of(half, inputs).tolist() == [[-0.75, 0.0, 0.5], [-0.5, -1.0, 0.0], [2.0, 0.0, 0.0]]


def test_a_teacher_who_is_the_reference_pulls_as_the_kl_penalty_does() -> None:
    world = World.random(3)
    inputs = inputs_of(world, world.responses())
    scored = torch.zeros_like(inputs.rewards_NG)
    inputs = replace(
        inputs, reference_RT=inputs.teacher_RT, rewards_NG=scored, valid_NG=torch.ones_like(inputs.valid_NG)
    )
    penalty = Term("online", Advantage(), aggregation=OPD.aggregation, kl=KL(1.0, "k2"))
    rows = range(len(inputs.mask_RT))
    assert inputs.old_RT is not None
    mine, other = (
        weigh([plan("x", term, inputs, credit_of(term, inputs), LONGEST)], inputs, rows, inputs.old_RT)[0].weights_RT
        for term in (OPD, penalty)
    )
    assert mine.any()
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-15)


def group(problem: str = "p", *responses: tuple[int, ...]) -> Group:
    made = (Response("x", y, (True,) * len(y), (-0.5,) * len(y), "stop", 0) for y in responses)
    return Group(Problem(problem, (Message("user", "2+2?"),), "4"), (1, 2), tuple(made))


def test_the_distance_to_the_teacher_is_over_the_policys_tokens() -> None:
    masked = Response("x", (5, 6, 7), (True, False, True), (-0.5, 0.0, -0.5), "stop", 0)
    groups = (ScoredGroup(replace(group(), responses=(masked,)), ((),), (None,)),)
    batch = Batch(groups, old_logprobs=((-1.0, -9.0, -2.0),), teacher_logprobs=((-1.5, -3.0, -3.0),))
    assert teacher_kl(batch) == pytest.approx(0.75)
    assert teacher_kl(replace(batch, teacher_logprobs=None)) is None


# what it reads


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(tiny: Path, *sets: str) -> Config:
    preset = [] if any(each.startswith("gro.preset=") for each in sets) else ["gro.preset=opsd"]
    return load_config("math-gsm8k", sets=[f"model.path={tiny}", "sampling.max_tokens=8", *preset, *sets]).config


def test_a_teacher_who_sees_the_solution_reads_the_policys_message_with_it(tiny: Path) -> None:
    config = load(tiny, "teacher.template={{ message }} ({{ unit }}: {{ answer }})")
    renderer = open_renderer(open_tokenizer(tiny, False), config.prompt)
    problem = Problem("p", (Message("system", "Be brief."), Message("user", "2+2?")), "4", {"unit": "apples"})
    found = teacher_prompts(config, [Prompt(problem, (1, 2))], renderer, tiny)
    shown = replace(problem, messages=(problem.messages[0], Message("user", "2+2? (apples: 4)")))
    assert found == {"p": renderer.token_ids(renderer.prompt(shown))}

    asked: list[Group] = []

    class Policy:
        def logprobs(self, groups: Any, temperature: float) -> list[list[float]]:
            asked.extend(groups)
            return [[-0.5, -0.25]]

    fresh = replace(group("p", (5, 6)), problem=problem)
    assert SolutionReader(Policy(), found).logprobs([fresh], 1.0) == [[-0.5, -0.25]]
    assert asked == [replace(fresh, prompt_ids=found["p"])]


@pytest.mark.parametrize(
    ("template", "answer", "message"),
    [
        ("{{ message }} {{ answer }}", "", "problem p has no reference answer, and the teacher reads it"),
        ("{{ message }} {{ steps }}", "4", "teacher.template, problem p: 'steps' is undefined. There is: "),
        ("{{ message", "4", "teacher.template, line 1: not a Jinja template"),
        ("{{ message }}" + " so" * 600, "4", "are left of the positions that the teacher knows"),
    ],
)
def test_what_the_teacher_cannot_read_is_refused(tiny: Path, template: str, answer: str, message: str) -> None:
    config = load(tiny, f"teacher.template={template}")
    renderer = open_renderer(open_tokenizer(tiny, False), config.prompt)
    problem = Problem("p", (Message("user", "2+2?"),), answer)
    with pytest.raises((ConfigError, DataError), match=message):
        teacher_prompts(config, [Prompt(problem, (1,))], renderer, tiny)


@dataclass
class Tokenizer:
    vocabulary: dict[str, int]
    special_tokens_map: dict[str, Any]

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "special", "difference"),
    [
        ({"a": 1, "b": 0}, {}, "the token 'a' is number 0 for the policy and number 1 for the teacher"),
        ({"a": 0}, {}, "the token 'b' is number 1 for the policy and not there for the teacher"),
        ({"a": 0, "b": 1, "c": 2}, {}, "the token 'c', number 2 of the teacher, is not there for the policy"),
        ({"b": 1, "a": 0}, {"eos_token": "a"}, "eos_token is 'b' for the policy and 'a' for the teacher"),
        ({"a": 0, "b": 1}, {"pad_token": "a"}, "pad_token is not set for the policy and 'a' for the teacher"),
    ],
)
def test_another_tokenizer_is_refused_with_the_first_difference(
    vocabulary: dict[str, int], special: dict[str, Any], difference: str
) -> None:
    policy = Tokenizer({"a": 0, "b": 1}, {"eos_token": "b", "additional_special_tokens": ["x", "y"]})
    same = {"eos_token": "b", "additional_special_tokens": ["y", "x"]}
    check_same_tokenizer(policy, Tokenizer({"b": 1, "a": 0}, same), "big")
    with pytest.raises(ConfigError) as refused:
        check_same_tokenizer(policy, Tokenizer(vocabulary, same | special), "big")
    assert str(refused.value).startswith(f"teacher.path = 'big' has another tokenizer than model.path: {difference}. ")


def test_a_teacher_of_another_family_is_refused_before_anything_is_loaded(tiny: Path, tmp_path: Path) -> None:
    """Real tokenizers: one token more, and the same again, with a chat template of its own, which is not used."""
    tokenizer = open_tokenizer(tiny, False)
    other = tmp_path / "teacher"
    shutil.copytree(tiny, other)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(other)
    config = load(tiny, f"teacher.path={other}")
    assert _teacher_folder(config, tiny, open_tokenizer(tiny, False)) == other
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(
        ConfigError, match=r"has another tokenizer than model.path: the token '<new>', number 260 of the"
    ):
        _teacher_folder(config, tiny, open_tokenizer(tiny, False))


OFFLINE = ["gro.terms.opsd.anchor.kind=none", "gro.terms.opsd.link.kind=linear"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["gro.preset=opd"], "gro.terms.opd needs teacher.path, not set: the initial model knows no more"),
        (["gro.preset=grpo+opd"], "gro.terms.opd needs teacher.path, not set"),
        (["gro.preset=grpo", "teacher.path=big"], "teacher has no effect: no term's credit is a teacher's"),
        (["teacher.servers=['http://a:1']"], "teacher.servers needs teacher.path"),
        (["teacher.dtype=bfloat16"], "teacher.dtype needs teacher.path"),
        (
            ["gro.terms.opd.preset=opd", "teacher.path=big"],
            "opsd, opd share one teacher: give them the same credit.sees",
        ),
        (
            ["gro.preset=opd", "teacher.path=big", "teacher.template={{ message }}"],
            "teacher.template has no effect with credit.sees = 'prompt'",
        ),
        (
            ["teacher.path=big", "teacher.servers=['http://a:1']", "sampling.temperature=0.7"],
            "teacher.servers with sampling.temperature = 0.7",
        ),
        (
            [*OFFLINE, "gro.terms.opsd.source=labelled"],
            "credit.kind = 'teacher' needs source = 'online', got 'labelled'",
        ),
        (["gro.terms.opsd.credit.discount=1.5"], r"credit.discount must be in \[0, 1\], got 1.5"),
        (
            ["gro.terms.opsd.evidence.unit=response", "gro.terms.opsd.aggregation.kind=responses"],
            "credit.kind = 'teacher' is per token and needs evidence.unit = 'token', got 'response'",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tiny: Path, sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tiny, *sets)


def test_ranks_without_a_response_of_their_own_have_the_teachers_log_probabilities_too() -> None:
    """Three ranks and two groups, of unequal lengths."""

    asked: list[int] = []

    class OneOfThree(Ranks):
        def gather(self, value: Any) -> list[Any]:
            if self.index not in asked:  # which tokens each of them lacks
                asked.append(self.index)
                return [{}] * 3
            return [shares[rank] if rank != self.index else value for rank in range(3)]

    class Policy:
        def logprobs(self, groups: Any, temperature: float) -> list[list[float]]:
            return [[-float(len(each.prompt_ids))] * len(y.token_ids) for each in groups for y in each.responses]

    groups = [group("p", (5,), (6, 7, 8)), group("q", (9, 9))]
    prompts = {"p": (1,) * 30, "q": (1,) * 4}
    read = [replace(each, prompt_ids=prompts[each.problem.id]) for each in groups]
    parts = shares_of(rows_by_group(read), 3)
    assert [] in parts
    shares = [
        {
            row: [-float(len(each.group.prompt_ids))] * len(each.response(row).token_ids)
            for each in part
            for row in each.rows
        }
        for part in parts
    ]
    for index in range(3):
        sharded = ShardedPolicy(Policy(), OneOfThree(index, 3))
        found = SolutionReader(sharded, prompts).logprobs(groups, 1.0)
        assert found == [[-30.0], [-30.0] * 3, [-4.0] * 2]


# on servers


def wanted() -> ServerRequirements:
    return ServerRequirements("reasoner serve big", {"vocab_size": 260}, "float32", 16, None)


def test_servers_score_the_responses_and_another_one_helps_out() -> None:
    groups = [group("p", (5, 6), (7,)), group("q", (8, 9, 10))]
    with fake_servers(2) as fakes, ServedPolicy([fake.url for fake in fakes], wanted()) as teacher:
        expected = [[-token / 100 for token in y.token_ids] for each in groups for y in each.responses]
        expected[1] = [-0.1]  # the fake says another thing of token 7
        assert teacher.logprobs(groups, 1.0) == expected
        fakes[1].dead = True
        assert teacher.logprobs(groups, 1.0) == expected
        fakes[0].dead = True
        with pytest.raises(SamplerError, match="no server of the teacher gives log-probabilities"):
            teacher.logprobs(groups, 1.0)


def test_a_teacher_whose_weights_are_others_than_at_the_start_ends_the_run() -> None:
    with fake_servers(1) as (fake,), ServedPolicy([fake.url], wanted()) as teacher:
        fake.version = "of another run"
        with pytest.raises(SamplerError, match=r"has other weights than at the start of the run: \['of another run'\]"):
            teacher.logprobs([group("p", (5,))], 1.0)


def test_servers_that_hold_another_model_are_refused_and_need_no_folder_of_ours() -> None:
    with fake_servers(1) as (fake,):
        fake.describes = {"reads_folder": False}
        with ServedPolicy([fake.url], wanted()):
            pass
        fake.describes = {"max_model_len": 8}
        with pytest.raises(UserError, match=r"takes 8 tokens.*Start it with: reasoner serve big --port"):
            ServedPolicy([fake.url], wanted())


@pytest.mark.parametrize(
    ("sets", "mistake"),
    [
        ([], r"holds the model in bfloat16, and model.dtype \(teacher.dtype is not set\) is float32"),
        (["model.dtype=bfloat16", "teacher.dtype=float32"], "in bfloat16, and teacher.dtype is float32"),
        (["teacher.dtype=bfloat16"], "holds another model.*; the teacher's: "),
    ],
)
def test_what_is_wrong_with_a_teachers_server_names_the_teachers_key(tiny: Path, sets: list[str], mistake: str) -> None:
    config = load(tiny, f"teacher.path={tiny}", *sets)
    needed = ServerRequirements.teacher(config, tiny, 16)
    shape = dict(needed.shape)
    with fake_servers(1) as (fake,):
        fake.describes = {"dtype": "bfloat16", "shape": shape | ({"vocab_size": 1} if "another" in mistake else {})}
        with pytest.raises(UserError, match=mistake) as refused:
            ServedPolicy([fake.url], needed)
        assert str(refused.value).endswith(
            f"--port {fake.url.rpartition(':')[2]}"
        )  # it is served without the run's keys
        fake.describes = {"dtype": needed.dtype, "shape": shape}
        with ServedPolicy([fake.url], needed):
            pass
