"""Tiny random models of the architectures that people train, as their published folders look.

Each is a row of `ARCHITECTURES`: the class of transformers, what is special about it, and the settings that make it
tiny (two to four layers, hidden size 64, head size 32, the 260 tokens of `tests.tiny`). `build` saves one with the
names that published checkpoints have, which for some models differ from those that transformers has in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from reasoner.models.resolve import no_progress_bars
from tests.tiny import byte_tokenizer

Kind = Literal["tied", "sliding", "soft cap", "experts", "recurrent", "converted", "vision", "longrope", "alibi"]
"""What is special about a model: embeddings tied to the output layer, attention over a sliding window (or chunk),
capped logits, experts, recurrent or convolutional layers, other weight names in published folders than in memory,
images beside text, a rotary embedding that depends on the longest sequence of a batch, attention biased by distance."""

VOCABULARY = 260
"""tokens of `byte_tokenizer`"""
IMAGE_TOKEN = 264
"""first of the ids beyond the tokenizer's own that stand for images and the like"""
IMAGE_VOCABULARY = 272
WINDOW = 16
"""tokens of a sliding window: shorter than the sequences that tests compare"""

_DENSE: Mapping[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
"""settings of every model whose configuration knows them, unless its row says otherwise"""


@dataclass(frozen=True)
class Architecture:
    """One kind of model and how to make it tiny."""

    name: str
    """of the row, and of what `check_models.py` takes"""
    model: str
    """class in transformers"""
    kinds: frozenset[Kind] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """of the configuration; `text_config` and `vision_config` are settings of those"""

    def __str__(self) -> str:
        return self.name


def _row(name: str, model: str, *kinds: Kind, **settings: Any) -> Architecture:
    return Architecture(name, model, frozenset(kinds), settings)


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
_ONE_GROUP = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_LATENT_ATTENTION = {
    "num_key_value_heads": 2,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
_SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_DELTA_NET = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_NEMOTRON_MAMBA = {"ssm_state_size": 16, "mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 1, "chunk_size": 16}
_QWEN_VISION = {"depth": 1, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "initializer_range": 0.15}
_QWEN_IMAGES = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": IMAGE_TOKEN + 1,
    "vision_start_token_id": IMAGE_TOKEN + 2,
    "vision_end_token_id": IMAGE_TOKEN + 3,
}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_GEMMA4_TOKENS = (
    "image_token_id",
    "boi_token_id",
    "eoi_token_id",
    "video_token_id",
    "boa_token_id",
    "eoa_token_index",
    "audio_token_id",
)
_LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 16,
        "long_factor": [1.0 + index for index in range(16)],
    },
    "original_max_position_embeddings": 64,
}

ARCHITECTURES: tuple[Architecture, ...] = (
    # dense
    _row("llama", "LlamaForCausalLM", "tied", tie_word_embeddings=True),
    _row("llama-untied", "LlamaForCausalLM"),
    _row("qwen2", "Qwen2ForCausalLM", "tied", tie_word_embeddings=True),
    _row("qwen3", "Qwen3ForCausalLM", "tied", tie_word_embeddings=True),
    _row("mistral", "MistralForCausalLM", "sliding", sliding_window=WINDOW),
    _row("ministral", "MinistralForCausalLM", "sliding", **_SLIDING),
    _row("phi", "PhiForCausalLM", num_key_value_heads=2),
    _row("phi3", "Phi3ForCausalLM", sliding_window=None),
    _row("phi3-longrope", "Phi3ForCausalLM", "longrope", sliding_window=None, **_LONGROPE),
    _row("gemma", "GemmaForCausalLM", "tied"),
    _row(
        "gemma2",
        "Gemma2ForCausalLM",
        "tied",
        "sliding",
        "soft cap",
        query_pre_attn_scalar=32,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        **_SLIDING,
    ),
    _row("gemma3", "Gemma3ForCausalLM", "tied", "sliding", query_pre_attn_scalar=32, **_SLIDING),
    _row("olmo", "OlmoForCausalLM"),
    _row("olmo2", "Olmo2ForCausalLM"),
    _row("olmo3", "Olmo3ForCausalLM", "sliding", **_SLIDING),
    _row("glm", "GlmForCausalLM"),
    _row("glm4", "Glm4ForCausalLM"),
    _row(
        "granite",
        "GraniteForCausalLM",
        "tied",
        tie_word_embeddings=True,
        embedding_multiplier=2.0,
        logits_scaling=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.1,
    ),
    _row("smollm3", "SmolLM3ForCausalLM", "tied", no_rope_layers=[1, 0]),
    _row("nemotron", "NemotronForCausalLM"),
    _row("cohere", "CohereForCausalLM", "tied", logit_scale=0.5),
    _row("cohere2", "Cohere2ForCausalLM", "tied", "sliding", logit_scale=0.5, **_SLIDING),
    _row("stablelm", "StableLmForCausalLM"),
    _row("starcoder2", "Starcoder2ForCausalLM", "tied", tie_word_embeddings=True),
    _row("ernie4_5", "Ernie4_5ForCausalLM", "tied"),
    _row("hunyuan", "HunYuanDenseV1ForCausalLM"),
    _row("seed_oss", "SeedOssForCausalLM"),
    _row("apertus", "ApertusForCausalLM"),
    _row("arcee", "ArceeForCausalLM"),
    _row("exaone4", "Exaone4ForCausalLM", "sliding", **_SLIDING),
    _row("helium", "HeliumForCausalLM"),
    _row("cwm", "CwmForCausalLM", "sliding", bos_token_id=0, **_SLIDING),
    _row("nanochat", "NanoChatForCausalLM", "soft cap", final_logit_softcapping=3.0),
    _row("vaultgemma", "VaultGemmaForCausalLM", "tied", "sliding", "soft cap", query_pre_attn_scalar=32, **_SLIDING),
    # older ones
    _row("gpt2", "GPT2LMHeadModel", "tied", n_embd=64, n_layer=2, n_head=2, n_positions=512),
    _row("gpt_bigcode", "GPTBigCodeForCausalLM", "tied", n_embd=64, n_layer=2, n_head=2, n_positions=512),
    _row("gptj", "GPTJForCausalLM", n_embd=64, n_layer=2, n_head=2, n_positions=512, rotary_dim=16),
    _row("gpt_neox", "GPTNeoXForCausalLM", "converted"),
    _row("bloom", "BloomForCausalLM", "tied", "alibi", n_layer=2, n_head=2),
    _row("opt", "OPTForCausalLM", "tied", ffn_dim=96, word_embed_proj_dim=64, init_std=0.15),
    _row("mpt", "MptForCausalLM", "tied", "alibi", d_model=64, n_heads=2, n_layers=2, max_seq_len=512),
    _row("falcon", "FalconForCausalLM", "tied"),
    # experts
    _row("mixtral", "MixtralForCausalLM", "experts", "converted", **_LOCAL_EXPERTS),
    _row("phimoe", "PhimoeForCausalLM", "experts", "converted", **_LOCAL_EXPERTS),
    _row("qwen2_moe", "Qwen2MoeForCausalLM", "experts", "converted", shared_expert_intermediate_size=32, **_EXPERTS),
    _row("qwen3_moe", "Qwen3MoeForCausalLM", "experts", "converted", **_EXPERTS),
    _row("olmoe", "OlmoeForCausalLM", "experts", "converted", num_experts=4, num_experts_per_tok=2),
    _row("granitemoe", "GraniteMoeForCausalLM", "experts", "converted", **_LOCAL_EXPERTS),
    _row("gpt_oss", "GptOssForCausalLM", "experts", "sliding", **_LOCAL_EXPERTS, **_SLIDING),
    _row(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        "experts",
        "converted",
        **_ROUTED_EXPERTS,
        **_ONE_GROUP,
        **_LATENT_ATTENTION,
    ),
    _row(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        "experts",
        "converted",
        topk_method="noaux_tc",  # as published: vLLM makes room for the router's correction by this alone
        **_ROUTED_EXPERTS,
        **_ONE_GROUP,
        **_LATENT_ATTENTION,
    ),
    _row("glm4_moe", "Glm4MoeForCausalLM", "experts", "converted", **_ROUTED_EXPERTS, **_ONE_GROUP),
    _row("dots1", "Dots1ForCausalLM", "experts", "converted", **_ROUTED_EXPERTS, **_ONE_GROUP),
    _row("minimax_m2", "MiniMaxM2ForCausalLM", "experts", "converted", **_LOCAL_EXPERTS),
    _row(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        "tied",
        "experts",
        "converted",
        moe_num_experts=4,
        moe_k=2,
        moe_intermediate_size=32,
        moe_num_shared_experts=1,
    ),
    _row("hunyuan_moe", "HunYuanMoEV1ForCausalLM", "experts", "converted", num_experts=4, moe_topk=2),
    _row("afmoe", "AfmoeForCausalLM", "experts", "sliding", "converted", num_shared_experts=1, **_EXPERTS, **_SLIDING),
    # recurrent and hybrid
    _row(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        "experts",
        "recurrent",
        "converted",
        shared_expert_intermediate_size=32,
        **_EXPERTS,
        **_DELTA_NET,
    ),
    _row("qwen3_5", "Qwen3_5ForCausalLM", "recurrent", **_DELTA_NET),
    _row(
        "qwen3_5_moe",
        "Qwen3_5MoeForCausalLM",
        "experts",
        "recurrent",
        "converted",
        shared_expert_intermediate_size=32,
        **_EXPERTS,
        **_DELTA_NET,
    ),
    _row("olmo_hybrid", "OlmoHybridForCausalLM", "recurrent", "converted", **_DELTA_NET),
    _row("lfm2", "Lfm2ForCausalLM", "tied", "recurrent", block_multiple_of=32, layer_types=["conv", "full_attention"]),
    _row(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        "tied",
        "experts",
        "recurrent",
        "converted",
        num_dense_layers=1,
        layer_types=["conv", "full_attention"],
        **_EXPERTS,
    ),
    _row(
        "granite4",
        "GraniteMoeHybridForCausalLM",
        "recurrent",
        shared_intermediate_size=96,
        num_local_experts=0,
        layer_types=["mamba", "attention"],
        **_MAMBA,
    ),
    _row(
        "granite4-experts",
        "GraniteMoeHybridForCausalLM",
        "experts",
        "recurrent",
        "converted",
        shared_intermediate_size=32,
        layer_types=["mamba", "attention"],
        **_LOCAL_EXPERTS,
        **_MAMBA,
    ),
    _row("falcon_h1", "FalconH1ForCausalLM", "recurrent", mamba_d_ssm=128, **_MAMBA),
    _row("bamba", "BambaForCausalLM", "recurrent", attn_layer_indices=[1], **_MAMBA),
    _row("mamba", "MambaForCausalLM", "tied", "recurrent", state_size=8),
    _row("mamba2", "Mamba2ForCausalLM", "recurrent", num_heads=4, state_size=16, n_groups=1, chunk_size=16),
    _row(
        "nemotron_h",
        "NemotronHForCausalLM",
        "recurrent",
        "converted",
        layers_block_type=["linear_attention", "full_attention", "mlp"],
        **_NEMOTRON_MAMBA,
    ),
    _row(
        "nemotron3",
        "NemotronHForCausalLM",
        "experts",
        "recurrent",
        "converted",
        layers_block_type=["linear_attention", "moe", "full_attention"],
        moe_shared_expert_intermediate_size=32,
        **_ROUTED_EXPERTS,
        **_NEMOTRON_MAMBA,
    ),
    _row(
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        "tied",
        "sliding",
        "soft cap",
        "recurrent",
        lru_width=64,
        attention_window_size=WINDOW,
        block_types=["recurrent", "attention"],
        logits_soft_cap=3.0,
    ),
    _row(
        "jamba",
        "JambaForCausalLM",
        "experts",
        "recurrent",
        "converted",
        num_experts=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=8,
    ),
    _row(
        "zamba2",
        "Zamba2ForCausalLM",
        "tied",
        "recurrent",
        num_hidden_layers=3,
        layers_block_type=["linear_attention", "hybrid", "hybrid"],
        mamba_d_state=16,
        n_mamba_heads=4,
        chunk_size=16,
        num_key_value_heads=2,
        adapter_rank=8,
    ),
    # with images
    _row(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        "vision",
        "converted",
        text_config={**_MROPE, "tie_word_embeddings": False},
        vision_config={**_QWEN_VISION, "embed_dim": 32, "hidden_size": 64},
        **_QWEN_IMAGES,
    ),
    _row(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        "vision",
        "converted",
        text_config={**_MROPE, "tie_word_embeddings": False},
        vision_config={
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [0],
        },
        **_QWEN_IMAGES,
    ),
    _row(
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        "vision",
        text_config={**_MROPE, "tie_word_embeddings": False},
        vision_config={
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **_QWEN_IMAGES,
    ),
    _row(
        "qwen3_5_vl",
        "Qwen3_5ForConditionalGeneration",
        "vision",
        "recurrent",
        text_config={**_DELTA_NET},
        vision_config={
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
        },
        **_QWEN_IMAGES,
    ),
    _row(
        "gemma3_vl",
        "Gemma3ForConditionalGeneration",
        "tied",
        "sliding",
        "vision",
        "converted",
        text_config={"query_pre_attn_scalar": 32, **_SLIDING},
        vision_config=_SIGLIP,
        mm_tokens_per_image=4,
        boi_token_index=IMAGE_TOKEN + 1,
        eoi_token_index=IMAGE_TOKEN + 2,
        image_token_index=IMAGE_TOKEN,
    ),
    _row(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        "vision",
        "converted",
        text_config={"model_type": "mistral", "sliding_window": None},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": 16,
            "patch_size": 4,
        },
        image_token_index=IMAGE_TOKEN,
        tie_word_embeddings=False,
    ),
    _row(
        "llama4",
        "Llama4ForConditionalGeneration",
        "experts",
        "sliding",
        "vision",
        text_config={
            "intermediate_size_mlp": 96,
            "attention_chunk_size": WINDOW,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "no_rope_layers": [1, 0],
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        boi_token_index=IMAGE_TOKEN + 1,
        eoi_token_index=IMAGE_TOKEN + 2,
        image_token_index=IMAGE_TOKEN,
    ),
    # Gemma's newer text models
    _row(
        "gemma3n",
        "Gemma3nForCausalLM",
        "tied",
        "sliding",
        "soft cap",
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=16,
        laurel_rank=8,
        altup_num_inputs=2,
        final_logit_softcapping=3.0,
        **_SLIDING,
    ),
    _row(
        "gemma4",
        "Gemma4ForCausalLM",
        "tied",
        "sliding",
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=16,
        global_head_dim=32,
        **_SLIDING,
    ),
    _row(
        "gemma4_vl",
        "Gemma4ForConditionalGeneration",
        "tied",
        "sliding",
        "vision",
        text_config={
            "vocab_size_per_layer_input": IMAGE_VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "global_head_dim": 32,
            **_SLIDING,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 64,
        },
        audio_config=None,
        **dict(zip(_GEMMA4_TOKENS, range(IMAGE_TOKEN, IMAGE_TOKEN + 7), strict=False)),
    ),
)

BY_NAME: Mapping[str, Architecture] = {each.name: each for each in ARCHITECTURES}


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Save the tiny random model `name` and its tokenizer in Hugging Face format.

    Norms and biases are random too: a weight that is lost on its way shows in the log-probabilities.
    """
    architecture = BY_NAME[name]
    tokenizer = byte_tokenizer()
    end, turn_end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    model = random_model(architecture, seed=seed)
    model.generation_config = GenerationConfig(eos_token_id=[turn_end, end], pad_token_id=tokenizer.pad_token_id)
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_model(architecture: Architecture, *, seed: int = 0) -> PreTrainedModel:
    """The model in memory, float32."""
    model_class = getattr(transformers, architecture.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(tiny_config(architecture))
        with torch.no_grad():
            for name, value in [*model.named_parameters(), *model.named_buffers()]:
                if (value.dim() == 1 and isinstance(value, torch.nn.Parameter)) or "correction_bias" in name:
                    value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def tiny_config(architecture: Architecture) -> PreTrainedConfig:
    """The configuration of a row."""
    config_class = getattr(transformers, architecture.model).config_class
    tokenizer = byte_tokenizer()
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    settings = dict(architecture.settings)
    if "text_config" in settings:
        text_class = config_class.sub_configs["text_config"]
        known = _DENSE if text_class is transformers.AutoConfig else _known(text_class)
        settings["text_config"] = {**known, "vocab_size": IMAGE_VOCABULARY, **tokens, **settings["text_config"]}
        return config_class(**settings)
    return config_class(**{**_known(config_class), **tokens, **settings})


def _known(config_class: type[PreTrainedConfig]) -> dict[str, object]:
    names = {each.name for each in fields(config_class)}
    return {key: value for key, value in _DENSE.items() if key in names}
