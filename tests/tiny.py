"""Tiny real models for tests: a trained byte-level BPE and a random two-layer network, saved as checkpoint folders."""

import functools
from pathlib import Path
from typing import Any

CORPUS = (
    "The heart pumps blood through the arteries. Question: Which gas do plants take in? Answer: carbon dioxide.\n",
    "A. the liver\nB. the kidney\nC. the lung\nD. the skin\nAnswer: B\n\nThe following are questions.\n",
    "Janet has 3 apples and buys 12 more. How many apples does she have? #### 15\n",
    "He went to the market because the bread at home was gone, and then she said that it was late.\n",
)


@functools.cache
def tiny_tokenizer(vocabulary: int = 400) -> Any:
    """A byte-level BPE tokenizer trained on a few sentences, with BOS, EOS and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return tokenizer


def tiny_model(*, seed: int = 0, window: int = 2048, vocabulary: int = 512, scale: float = 0.2) -> Any:
    """A random Llama of two layers in float32. `scale` is the spread of its weights: larger, more decided answers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=scale,
        bos_token_id=0,
        eos_token_id=1,
    )
    # Networks this small lose a hundredfold when two busy cores share one of their products.
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save_tiny_checkpoint(folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """Write model and tokenizer as a checkpoint folder; returns it."""
    tiny_model(seed=seed, **options).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
