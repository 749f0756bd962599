"""torch sides from ``transformers`` with tiny random configurations, which only the tests need."""

import importlib.util
from typing import Any

import jax.numpy as jnp
import torch

import compare
from tests.corpus.building import build, integers, normal
from tests.corpus.ports.language import GPT, Bert
from tests.corpus.ports.llama import Llama
from tests.corpus.ports.sequences import T5
from tests.corpus.ports.vision import LinenViT

LOWEST = float(jnp.finfo(jnp.float32).min)


def logits(output: Any) -> Any:
    return output.logits


def make_bert() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=9,
        )
    )


def hf_bert() -> compare.Port:
    mask = integers(2, 3, 7, seed=1) * 0 + 1
    mask[1, 4:] = 0
    inputs = {"input_ids": integers(11, 3, 7), "attention_mask": mask, "token_type_ids": integers(2, 3, 7, seed=2)}
    return build("transformers BERT", make_bert, Bert(masked=LOWEST), inputs, frozen=("attention_mask",))


def make_gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=13, n_positions=10, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def hf_gpt2() -> compare.Port:
    return build("transformers GPT-2", make_gpt2, GPT(), integers(13, 2, 7), outputs=(logits, None))


def make_llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=13,
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            rms_norm_eps=1e-6,
            use_cache=False,
        )
    )


def hf_llama() -> compare.Port:
    return build("transformers Llama", make_llama, Llama(), integers(13, 2, 7), outputs=(logits, None))


def make_t5() -> torch.nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=11,
            d_model=8,
            d_kv=3,
            d_ff=9,
            num_layers=1,
            num_heads=2,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
            feed_forward_proj="gated-gelu",
            use_cache=False,
        )
    )


def hf_t5() -> compare.Port:
    inputs = {"input_ids": integers(11, 2, 14), "decoder_input_ids": integers(11, 2, 12, seed=1)}
    return build("transformers T5", make_t5, T5(), inputs, outputs=(logits, None))


def make_vit() -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        layer_norm_eps=1e-6,
    )
    config.num_labels = 3
    return ViTForImageClassification(config)


def hf_vit() -> compare.Port:
    inputs = compare.Inputs(normal(2, 3, 8, 8), lambda x: jnp.transpose(x, (0, 2, 3, 1)))
    return build("transformers ViT", make_vit, LinenViT(), inputs, outputs=(logits, None))


INSTALLED = importlib.util.find_spec("transformers") is not None
BUILDERS = (hf_bert, hf_gpt2, hf_llama, hf_t5, hf_vit) if INSTALLED else ()


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
