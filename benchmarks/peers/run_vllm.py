"""Runs a job of runner.py on vLLM's CPU build, its engine in this process so that its time and memory are seen."""

from __future__ import annotations

import os

from runner import Requests, given_job, run_cases

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def main() -> None:
    job = given_job()
    adapters = job["adapters"]
    options = {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": job["rank"]} if adapters else {}
    llm = LLM(
        model=job["model"],
        dtype=DTYPES[job["dtype"]],
        max_model_len=job["context"],
        max_num_seqs=job["in_flight"],
        **options,
    )
    engine = llm.llm_engine
    asked = iter(range(10**9))

    def answer(requests: Requests, in_flight: int) -> list[list[int]]:
        ids: dict[str, list[int]] = {}
        waiting = [(str(next(asked)), one) for one in requests]
        order = [name for name, _ in waiting]
        running = 0
        while waiting or running:
            while waiting and running < in_flight:
                name, one = waiting.pop(0)
                params = SamplingParams(max_tokens=one["tokens"], temperature=0, ignore_eos=True, detokenize=False)
                worn = one["adapter"]
                lora = None if worn is None else LoRARequest(str(worn), worn + 1, adapters[worn])
                engine.add_request(name, {"prompt_token_ids": one["prompt"]}, params, lora_request=lora)
                running += 1
            for output in engine.step():
                if output.finished:
                    ids[output.request_id] = list(output.outputs[0].token_ids)
                    running -= 1
        return [ids[name] for name in order]

    run_cases(job, answer)


if __name__ == "__main__":
    main()
