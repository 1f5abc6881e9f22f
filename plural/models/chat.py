"""Messages to tokens and back, by the tokenizer's own chat template. The only place where this happens.

What a message says can never become a control token. Before rendering, text in it that spells one is replaced by a
private-use guard, and after the rendered text was cut at the true control tokens the guard is put back as plain text.
Ordinary conversations never meet a guard and are tokenized exactly as transformers does.

Where a template encloses what tools return in tags that are plain text (Qwen2.5's `<tool_response>`), a result that
spells such a tag has it escaped, so that it cannot step out of them and go on as the user.
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from plural.errors import BaseModelError, PromptError
from plural.models import tools as tool_text
from plural.models.tokenizer import CALL_TAGS, Tokenizer
from plural.types import CutCall, Grammar, Message, ToolCall, ToolSpec

_OPEN, _CLOSE = CALL_TAGS
_GUARD = re.compile("\ue000([0-9]+)\ue001")
_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(rf"(?:[\s,\[\]]|{re.escape(_OPEN)}|{re.escape(_CLOSE)})*")
_BEGUN = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*")(?:, "arguments": (.*))?', re.DOTALL)


class ChatFormat:
    """How one base's conversations are written. `template` is Jinja; `call_tag` is what a tool call begins with."""

    call_tag = _OPEN

    def __init__(self, tokenizer: Tokenizer, template: str | None) -> None:
        self.template = template
        self.tokenizer = tokenizer
        added = sorted(tokenizer.added_texts, key=len, reverse=True)
        self._guarded = ["\ue000", *added]
        self._spelled = re.compile("|".join(map(re.escape, self._guarded)))
        self._tags = frozenset(added) - frozenset(tokenizer.control_texts)
        self._compiled: jinja2.Template | None = None
        self.native_tools = False
        if template is not None:
            environment = _environment()
            try:
                known = jinja2.meta.find_undeclared_variables(environment.parse(template))
                self._compiled = environment.from_string(template)
            except jinja2.TemplateError as error:
                raise BaseModelError(
                    f"The base's chat template is damaged: {error}.", hint="Fetch it again."
                ) from error
            self.native_tools = "tools" in known and _OPEN in template
        self._fence: re.Pattern[str] | None = None
        self._fence = self._find_fence()
        self.end_of_turn = self._find_end_of_turn()

    # -------------------------------------------------------------------------------------------- messages to tokens
    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        instructions: str = "",
        own_last: bool = False,
    ) -> list[int]:
        """Token ids up to where the next assistant turn begins.

        `instructions` become the system message, before one that is given. With `own_last` they and the tools, which
        are then described in words even if the template has words of its own, become one after the messages. Raises
        PromptError for an empty conversation, an empty last user message and roles that the template refuses.
        """
        _check(messages)
        return self._tokens(self._render(messages, tools, instructions, generate=True, own_last=own_last))

    def encode_example(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, instructions: str = ""
    ) -> tuple[list[int], list[bool]]:
        """A whole conversation, and True for each token to learn: every assistant turn with its end-of-turn token.

        The ids of each turn are made apart from what precedes them, as they are when they are generated.
        """
        if not any(message.role == "assistant" for message in messages):
            raise PromptError("An example without an assistant message has nothing to learn.")
        whole = self._render(messages, tools, instructions, generate=False)
        ids: list[int] = []
        mask: list[bool] = []
        at = 0
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self._render(messages[:i], tools, instructions, generate=True)
            end = whole.find(self.end_of_turn, len(prompt)) if self.end_of_turn else len(whole)
            if not whole.startswith(prompt) or end < 0:
                raise PromptError(f"The chat template writes turn {i + 1} differently as prompt and as history.")
            stop = end + len(self.end_of_turn)
            for text, learn in ((whole[at : len(prompt)], False), (whole[len(prompt) : stop], True)):
                tokens = self._tokens(text)
                ids += tokens
                mask += [learn] * len(tokens)
            at = stop
        rest = self._tokens(whole[at:])
        return ids + rest, mask + [False] * len(rest)

    def text(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, instructions: str = "") -> str:
        """What `encode` tokenizes, for people to read."""
        _check(messages)
        return self._unguard(self._render(messages, tools, instructions, generate=True))

    def invocation(self) -> tuple[int, ...]:
        """The tokens with which the template opens the assistant's turn: from them on an activated adapter acts.

        Raises PromptError for a template that opens it with nothing.
        """
        asked = (Message("user", "?"),)
        before, whole = (self._render(asked, (), "", generate=generate) for generate in (False, True))
        opening = self._tokens(whole.removeprefix(before)) if whole.startswith(before) else []
        if not opening:
            raise PromptError(
                "The base's chat template marks no beginning of the assistant's turn.", hint="Train a plain LoRA."
            )
        return tuple(opening)

    # ------------------------------------------------------------------------------------------------- calls and back
    def tool_grammar(
        self, tools: Sequence[ToolSpec], choice: str, *, parallel: bool = True, own_last: bool = False
    ) -> Grammar:
        """`choice`: "auto" (text or calls), "required", "none" (text), or the name of the tool that must be called.
        `own_last` is as the prompt was encoded.

        Text that begins with the call tag but is no valid call cannot be drawn. Raises GrammarError for an unknown
        name.
        """
        tags = {
            tag: i for tag, i in self.tokenizer.added_texts.items() if tag in self._tags and tag[0] + tag[-1] == "<>"
        }
        one_tag_each = self.native_tools and not own_last
        return tool_text.grammar(tools, choice, parallel=parallel, one_tag_each=one_tag_each, tags=tags)

    def read_calls(self, text: str) -> tuple[tuple[ToolCall, ...], CutCall | None, bool]:
        """(the whole calls, the one that breaks off, whether the text is whole) of what was drawn under `tool_grammar`
        and begins like a call."""
        calls: list[ToolCall] = []
        at = _end_of(_BETWEEN, text, 0)
        while (read := _call_at(text, at)) is not None:
            call, at = read
            calls.append(call)
            at = _end_of(_BETWEEN, text, at)
        rest = text[at:]
        if calls and _CLOSE.startswith(rest):
            return tuple(calls), None, not rest and text.rstrip().endswith(_CLOSE)
        return tuple(calls), _cut(rest, _OPEN + rest if calls else text), False

    # --------------------------------------------------------------------------------------------------------- inside
    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        instructions: str,
        *,
        generate: bool,
        own_last: bool = False,
    ) -> str:
        """The template's text, with guards."""
        if self._compiled is None:
            raise PromptError("The base has no chat template.", hint="Use an instruction-tuned base.")
        native = self.native_tools and not own_last
        system = [instructions] if instructions else []
        if not native and tools:
            system.append(tool_text.describe(tools))
        rest = list(messages)
        at = -1 if own_last else 0
        if system and rest and rest[at].role == "system":
            system.insert(1 if instructions else 0, rest.pop(at).content)
        if system:
            rest.insert(len(rest) if own_last else 0, Message("system", "\n\n".join(system)))
        variables: dict[str, Any] = {name: text for name, text in self.tokenizer.named.items()}
        if native:
            variables["tools"] = [self._guard(tool_text.as_openai(tool)) for tool in tools] or None
        try:
            text = self._compiled.render(
                messages=[self._as_dict(message) for message in rest], add_generation_prompt=generate, **variables
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise PromptError(
                f"The base's chat template refuses this conversation: {error}.",
                hint=f"Its roles: {', '.join(message.role for message in rest)}.",
            ) from error
        if own_last and system and self._guard(rest[-1].content).strip() not in text:
            raise PromptError(
                "The base's chat template leaves out a system message at the end.", hint="Put what is its own first."
            )
        return text

    def _as_dict(self, message: Message) -> dict[str, Any]:
        # The template itself looks for tags such as </think> in what the model said; others may not write them.
        tags = message.role == "assistant"
        content = self._guard(message.content, tags=tags)
        if message.role == "tool" and self._fence is not None:
            content = self._fence.sub(lambda tag: tag[0].replace("<", "&lt;"), content)
        made: dict[str, Any] = {"role": message.role, "content": content}
        if message.tool_calls and self.native_tools:
            made["tool_calls"] = [
                {
                    "type": "function",
                    "id": self._guard(call.id),
                    "function": {"name": self._guard(call.name), "arguments": self._guard(dict(call.arguments))},
                }
                for call in message.tool_calls
            ]
        elif message.tool_calls:
            made["content"] = content + self._guard(tool_text.write_calls(message.tool_calls), tags=True)
        if message.tool_call_id is not None:
            made["tool_call_id"] = self._guard(message.tool_call_id)
        return made

    def _guard(self, value: Any, *, tags: bool = False) -> Any:
        """`value` with every added token's text replaced, in strings at any depth; `tags` lets visible tags be."""
        if isinstance(value, str):
            spared = self._tags if tags else frozenset[str]()
            return self._spelled.sub(
                lambda m: m[0] if m[0] in spared else f"\ue000{self._guarded.index(m[0])}\ue001", value
            )
        if isinstance(value, Mapping):
            return {self._guard(key): self._guard(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._guard(inner) for inner in value]
        return value

    def _unguard(self, text: str) -> str:
        return _GUARD.sub(lambda m: self._guarded[int(m[1])], text)

    def _tokens(self, text: str) -> list[int]:
        if "\ue000" not in text:
            return self.tokenizer.encode_template(text)
        ids: list[int] = []
        for part in self.tokenizer.split_template(text):
            ids += [part] if isinstance(part, int) else self.tokenizer.encode(self._unguard(part))
        return ids

    def _find_fence(self) -> re.Pattern[str] | None:
        """The tags, no tokens of their own, between which the template puts what a tool returned."""
        probe = "\ue002"
        if self._compiled is None:
            return None
        try:
            rendered = self._render((Message("user", "?"), Message("tool", probe)), (), "", generate=False)
        except PromptError:
            return None
        before, _, after = rendered.partition(probe)
        around = [part for part in self.tokenizer.split_template(before)[-1:] if isinstance(part, str)]
        around += [part for part in self.tokenizer.split_template(after)[:1] if isinstance(part, str)]
        tags = sorted(set(re.findall(r"</?\w+>", "".join(around))))
        return re.compile("|".join(map(re.escape, tags))) if tags else None

    def _find_end_of_turn(self) -> str:
        """The control token that the template writes after what the assistant said."""
        probe = "\ue002"
        if self._compiled is not None:
            try:
                turns = (Message("user", "?"), Message("assistant", probe))
                rendered = self._render(turns, (), "", generate=False)
            except PromptError:
                rendered = probe
            after = self.tokenizer.split_template(rendered.partition(probe)[2])
            ids = [part for part in after if isinstance(part, int) and part in self.tokenizer.special_ids]
            if ids:
                return self.tokenizer.token_text(ids[0])
        return self.tokenizer.named.get("eos_token", "")


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise PromptError("The conversation is empty.", hint="Give at least one message.")
    if messages[-1].role == "user" and not messages[-1].content.strip():
        raise PromptError(f"The last user message is empty: {messages[-1].content!r}.", hint="Ask something.")


def _call(value: Any) -> ToolCall | None:
    if not (isinstance(value, dict) and isinstance(value.get("name"), str)):
        return None
    arguments = value.get("arguments", {})
    return ToolCall(_fresh_id(), value["name"], arguments) if isinstance(arguments, dict) else None


def _fresh_id() -> str:
    return f"call_{uuid.uuid4().hex[:12]}"


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _call_at(text: str, at: int) -> tuple[ToolCall, int] | None:
    """The whole call that begins there, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except ValueError:
        return None
    call = _call(value)
    return None if call is None else (call, end)


def _cut(rest: str, text: str) -> CutCall:
    begun = _BEGUN.match(rest)
    if begun is None:
        return CutCall(_fresh_id(), "", "", text)
    return CutCall(_fresh_id(), json.loads(begun[1]), begun[2] or "", text)


def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives its templates: a template cannot change what it is given nor reach Python."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
