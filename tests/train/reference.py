"""The same training as transformers and peft do it: padded rows, their model, their LoRA."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from plural.models.base import Base
from plural.models.config import GROUPS, PARENT
from plural.specialists import AdapterWeights
from plural.train import TrainSettings
from plural.train.rows import Row, batch


def as_transformers(base: Base) -> Any:
    """Our weights in a LlamaForCausalLM."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c, w = base.config, base.decoder.weights
    sizes = {"vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size}
    config = LlamaConfig(
        **sizes,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_positions,
        rms_norm_eps=c.rms_eps,
        rope_theta=c.rope_theta,
        tie_word_embeddings=c.tied_head,
    )
    tensors = {"model.embed_tokens.weight": w.embed_VH, "model.norm.weight": w.norm_H, "lm_head.weight": w.head_VH}
    for i, layer in enumerate(w.layers):
        tensors[f"model.layers.{i}.input_layernorm.weight"] = layer.input_norm_H
        tensors[f"model.layers.{i}.post_attention_layernorm.weight"] = layer.post_norm_H
        for group in GROUPS:
            fused_OI = getattr(layer, f"{group}_OI")
            for module, where in c.slices(group).items():
                tensors[f"model.layers.{i}.{PARENT[module]}.{module}.weight"] = fused_OI[where]
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    return model


def losses(model: Any, start: AdapterWeights, rows: Sequence[Row], settings: TrainSettings, steps: int) -> list[float]:
    """The loss of each step, from the given first weights of the adapter."""
    tuned = _tuned(model, start)

    def loss(step: int) -> torch.Tensor:
        ids, seen, labels = _padded(batch(rows, step, settings))
        return tuned(input_ids=ids, attention_mask=seen, labels=labels).loss  # type: ignore[no-any-return]

    return _trained(tuned, settings, settings.steps(len(rows)), loss)[:steps]


def preference_losses(
    model: Any, start: AdapterWeights, rows: Sequence[Row], settings: TrainSettings, *, from_base: bool
) -> list[float]:
    """DPO as the paper writes it (equation 7): chosen and rejected rows take turns. What they are compared with is the
    adapter as it was, which for one that starts from the base is the model without it.
    """
    tuned = _tuned(model, start)
    with torch.no_grad(), tuned.disable_adapter() if from_base else contextlib.nullcontext():
        before = dict(zip(rows, _log_probabilities(tuned, rows), strict=True))

    def loss(step: int) -> torch.Tensor:
        pairs = batch(rows, step, settings, together=2)
        ratio = _log_probabilities(tuned, pairs) - torch.stack([before[row] for row in pairs])
        assert settings.beta is not None
        return -torch.log(torch.sigmoid(settings.beta * (ratio[0::2] - ratio[1::2]))).mean()

    return _trained(tuned, settings, settings.steps(len(rows) // 2), loss)


def _log_probabilities(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Of each row's answer, summed over its tokens."""
    ids, seen, labels = _padded(rows)
    log_RTV = torch.log_softmax(model(input_ids=ids, attention_mask=seen).logits[:, :-1], -1)
    said = labels[:, 1:].clamp(min=0)
    log_RT = log_RTV.gather(2, said[:, :, None])[:, :, 0]
    return (log_RT * (labels[:, 1:] >= 0)).sum(1)


def _tuned(model: Any, start: AdapterWeights) -> Any:
    from peft import LoraConfig, get_peft_model

    config = start.config
    tuned = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=int(config.alpha),
            target_modules=list(config.targets),
            use_rslora=config.use_rslora,
            alora_invocation_tokens=list(config.invocation) or None,
        ),
    )
    with torch.no_grad():
        for (layer, module), (a_RI, b_OR) in start.tensors.items():
            linear = tuned.base_model.model.get_submodule(f"model.layers.{layer}.{PARENT[module]}.{module}")
            linear.lora_A.default.weight.copy_(torch.from_numpy(a_RI))
            linear.lora_B.default.weight.copy_(torch.from_numpy(b_OR))
    return tuned.train()


def _trained(tuned: Any, settings: TrainSettings, steps: int, loss_of: Callable[[int], torch.Tensor]) -> list[float]:
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, weight_decay=settings.weight_decay)
    found = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = settings.rate(step, steps)
        optimiser.zero_grad()
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.grad_clip)
        optimiser.step()
        found.append(float(loss.detach()))
    return found


def _padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    seen = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = torch.tensor(row.ids)
        seen[i, :length] = 1
        labels[i, :length] = torch.where(torch.tensor(row.learn), torch.tensor(row.ids), -100)
    return ids, seen, labels
