"""A model that never saw a text: random weights, and a tokenizer trained on the run's own rows. Knows rows and classes.

The same settings, seed and rows give the same bytes, in a folder that is named by them: a run that goes on, and other
runs on the same data, find it there. What is in it is an ordinary checkpoint (safetensors, ChatML), which every engine
loads.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.mixing import IGNORED, PackedRow
from training.options import NewModel
from training.preflight import Finding
from training.sources import RowDocuments
from workbench.errors import ConfigError

VERSION = 1
"""Of what is made from the same settings."""
CHARACTERS = 30_000_000
"""Of text that the tokenizer is trained on at most: rows evenly spread over each source."""
ENDS, BEGINS, PADS = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    + BEGINS
    + "{{ message['role'] }}\n{{ message['content'] }}"
    + ENDS
    + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + BEGINS + "assistant\n{% endif %}"
)
"""ChatML, as SmolLM2 and Qwen have it; ENDS also ends a text."""
KNOWS_NOTHING = 0.5
"""Nats by which the loss of random weights may differ from that of a uniform guess, before something is odd."""


def build_new_model(options: NewModel, sources: Mapping[str, RowDocuments], *, seed: int, below: Path) -> Path:
    """The folder of the new model, below `below`; made if it is not there.

    Raises ConfigError: rows too few for a vocabulary of that size.
    """
    from workbench.engines.convert import new_folder, quiet_transformers

    folder = below / f"new-{options.new}-{_digest(options, sources, seed)[:12]}"
    if not folder.is_dir():
        tokenizer = train_tokenizer(options, sources)
        with new_folder(folder) as fresh, quiet_transformers():
            random_model(options, tokenizer, seed=seed).save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
    return folder


def _digest(options: NewModel, sources: Mapping[str, RowDocuments], seed: int) -> str:
    """Of all that decides about the bytes."""
    data = sorted(documents.digest for documents in sources.values())
    said = {"version": VERSION, "options": options.model_dump(mode="json"), "seed": seed, "data": data}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def train_tokenizer(options: NewModel, sources: Mapping[str, RowDocuments]) -> Any:
    """A byte-level BPE of the rows' texts, with a chat template; no text is unknown to it.

    Raises ConfigError: rows too few for a vocabulary of that size.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        # digits one by one, so that numbers of any length are spelt alike
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=[PADS, BEGINS, ENDS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(_texts(sources), trainer)
    found = inner.get_vocab_size()
    if found < options.vocabulary:
        raise ConfigError(
            f"start.vocabulary: {options.vocabulary}: the rows give only {found} different pieces; set it to that or "
            "less, or give more text"
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=ENDS, pad_token=PADS)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(sources: Mapping[str, RowDocuments]) -> Iterator[str]:
    """What the tokenizer learns from: of a large source, rows evenly spread."""
    for documents in sources.values():
        some = np.linspace(0, len(documents) - 1, min(len(documents), 200)).astype(int).tolist()
        per_row = sum(len(text) for row in some for text in documents.texts(row)) / len(some)
        count = min(len(documents), max(1, int(CHARACTERS / len(sources) / max(1.0, per_row))))
        for row in np.linspace(0, len(documents) - 1, count).astype(int).tolist():
            yield from documents.texts(row)


def random_model(options: NewModel, tokenizer: Any, *, seed: int) -> Any:
    """The architecture with weights drawn by `seed`, in float32; the head is the embedding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        intermediate_size=options.inner_width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads or options.heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def check_start_loss(model: Any, rows: Sequence[PackedRow]) -> Finding:
    """Random weights know nothing: their loss is that of a uniform guess, ln of the vocabulary, or something is odd."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    lost, count = 0.0, 0
    with torch.no_grad():
        for row in rows[:2]:
            ids, positions = (torch.from_numpy(part)[None].to(device) for part in (row.tokens, row.positions))
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
            labels = torch.from_numpy(row.labels[1:]).to(device)
            lost += float(torch.nn.functional.cross_entropy(logits[:-1], labels, ignore_index=IGNORED, reduction="sum"))
            count += int((labels != IGNORED).sum())
    model.train(was_training)
    loss, uniform = lost / max(1, count), math.log(vocabulary)
    text = f"random weights lose {loss:.2f} nats a token, a uniform guess {uniform:.2f} (ln {vocabulary:,})"
    if abs(loss - uniform) <= KNOWS_NOTHING:
        return Finding(check="start", level="ok", text=text)
    cure = "; so they are too large to train well, or labels can be seen: take another width, or another seed"
    return Finding(check="start", level="warning", text=text + cure)
