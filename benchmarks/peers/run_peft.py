"""Runs a job of runner.py on transformers and peft: batches of `in_flight`, mixed ones by `adapter_names`."""

from __future__ import annotations

from typing import Any

import torch
from runner import Requests, given_job, run_cases
from transformers import AutoModelForCausalLM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(job: dict[str, Any]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=DTYPES[job["dtype"]])
    model.generation_config.eos_token_id = None
    if job["adapters"]:
        from peft import PeftModel

        first, *others = job["adapters"]
        model = PeftModel.from_pretrained(model, first, adapter_name="0")
        for number, path in enumerate(others, 1):
            model.load_adapter(path, adapter_name=str(number))
    return model.eval()


def main() -> None:
    job = given_job()
    torch.set_num_threads(job["threads"])
    model = load(job)

    def batch(requests: Requests) -> list[list[int]]:
        longest = max(len(one["prompt"]) for one in requests)
        tokens = max(one["tokens"] for one in requests)
        ids = torch.tensor([[0] * (longest - len(one["prompt"])) + one["prompt"] for one in requests])
        mask = torch.tensor([[0] * (longest - len(r["prompt"])) + [1] * len(r["prompt"]) for r in requests])
        worn = [one["adapter"] for one in requests]
        named = {}
        if set(worn) != {None} and len(set(worn)) == 1:
            model.set_adapter(str(worn[0]))  # faster than naming it for every row
        elif set(worn) != {None}:
            named = {"adapter_names": ["__base__" if one is None else str(one) for one in worn]}
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0, **named
            )
        return [row[: one["tokens"]] for row, one in zip(made[:, longest:].tolist(), requests, strict=True)]

    def answer(requests: Requests, in_flight: int) -> list[list[int]]:
        return [row for at in range(0, len(requests), in_flight) for row in batch(requests[at : at + in_flight])]

    run_cases(job, answer)


if __name__ == "__main__":
    main()
