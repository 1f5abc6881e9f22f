"""A request in the words of /v1/completions with vLLM's additions. Prompts travel as token ids: chat template, tools
and instructions are the network's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from plural.engine.intake import check_endings
from plural.engine.request import Request
from plural.errors import GrammarError
from plural.models.tokenizer import Tokenizer
from plural.types import Grammar

# llguidance's own options, read from a schema where the server's grammars are llguidance's, as ours are: what JSON may
# have for white space. Others skip the unknown key.
_JSON = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def body(request: Request, n: int, room: int, tokenizer: Tokenizer, *, vllm: bool) -> dict[str, Any]:
    """All but the model. `room` is how many tokens fit behind the prompt. Raises SettingsError and GrammarError."""
    drawn = request.sampling
    check_endings(request)
    said: dict[str, Any] = {
        "prompt": list(request.prompt),
        "max_tokens": min(drawn.max_tokens, room),
        "temperature": drawn.temperature,
        "logprobs": drawn.logprobs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    plain = {
        "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "seed": None,
    }  # fmt: skip
    # All of them are said: a server may take what is not said from the model's own generation_config.
    said |= {name: getattr(drawn, name) for name in plain if getattr(drawn, name) is not None}
    if drawn.stop:
        said["stop"] = list(drawn.stop)
    # vLLM knows one of the tokens that end a turn. A grammar's end is an end whatever ignore_eos says.
    ends = set(drawn.stop_token_ids)
    if vllm and (request.grammar is not None or not drawn.ignore_eos):
        ends |= tokenizer.eos_ids
    if ends:
        said["stop_token_ids"] = sorted(ends)
    if drawn.ignore_eos and request.grammar is None:
        said["ignore_eos"] = True
    if n > 1:
        said["n"] = n
    if request.grammar is not None:
        said["structured_outputs"] = structured(request.grammar, vllm=vllm)
    if request.priority:
        said["priority"] = -request.priority if vllm else request.priority  # vLLM's lower ones come first
    if request.deadline is not None and not vllm:  # vLLM has none: the wait for the first token is cut short here
        said["deadline"] = request.deadline
    return said


def structured(grammar: Grammar, *, vllm: bool) -> Mapping[str, Any]:
    """The grammar as `structured_outputs`. Raises GrammarError for a schema that is no JSON object."""
    match grammar.kind:
        case "json_schema":
            try:
                schema = json.loads(grammar.source)
            except ValueError as error:
                raise GrammarError(f"The JSON Schema {grammar.source[:80]!r} is wrong: {error}.") from error
            if not isinstance(schema, dict):
                raise GrammarError(
                    f"The JSON Schema {grammar.source[:80]!r} is no object.", hint="Other engines take objects only."
                )
            return {"json": {**schema, "x-guidance": _JSON} if vllm else schema}
        case "regex":
            return {"regex": grammar.source}
        case "choices":
            return {"choice": json.loads(grammar.source)}
        case "lark":
            return {"grammar": grammar.source}
