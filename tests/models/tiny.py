"""Tiny random models as transformers writes them, with a byte-level tokenizer: whole model directories."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 256,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def model(kind: str, **options):
    """A transformers model with random weights large enough to tell a wrong reading from rounding."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**(SIZES | options))
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return made


def save(folder: Path, kind: str = "Llama", **options):
    """The model directory; returns the transformers model, too."""
    made = model(kind, **options)
    made.save_pretrained(folder)
    write_tokenizer(folder)
    return made


def save_small(folder: Path) -> None:
    """The smallest one that a network runs on, with room for a thousand tokens."""
    save(
        folder,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )


def write_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    backend().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>"} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def backend(tags: tuple[str, ...] = ()):
    """256 byte tokens, <|im_start|> 256, <|im_end|> 257, then `tags`, which are not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|im_start|>", "<|im_end|>")])
    made.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return made


class PlainDelta:
    """LoRA of every module as one writes it on the blackboard: the reference for whatever serves adapters."""

    def __init__(self, config, tensors, scale: float, start: int = 0) -> None:
        """`tensors` maps (layer, module) to (a_RI, b_OR); it acts from position `start` on."""
        self.config, self.tensors, self.scale, self.start = config, tensors, scale, start

    def __call__(self, layer, group, x_TI, y_TO):
        added = torch.zeros_like(y_TO)
        for module, where in self.config.slices(group).items():
            a_RI, b_OR = self.tensors[layer, module]
            added[self.start :, where] = x_TI[self.start :] @ a_RI.T @ b_OR.T * self.scale
        return y_TO + added


def logits(base, ids, delta=None):
    """y_TV of one sequence."""
    from plural.models.attention import PackedAttend

    attend = PackedAttend([len(ids)])
    with torch.inference_mode():
        return base.decoder.logits(base.decoder.hidden(torch.tensor(ids), attend.positions(), attend, delta))
