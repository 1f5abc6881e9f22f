"""LangChain's own standard tests of chat models, unit and integration, against the engine on the real base.

What is declared is what is so. `standard_chat_model_params` are LangChain's without api_key and max_retries: a model in
this process has no key and no wire to fail, and ChatPlural refuses options that would change nothing. The integration
suite asks a model to call a tool unasked (`test_agent_loop`), so the tool calling specialist of the starter
library takes it, as a user's agent would.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from plural.engine import Engine
from plural.engine.chat import ChatPlural
from plural.specialists import Library
from plural.types import AdapterRef
from plural.wiring.settings import STARTER


@pytest.fixture(scope="module")
def parameters(base: Any) -> Iterator[dict[str, Any]]:
    library = Library(STARTER)
    card = library.get("toolcall").card
    engine = Engine(base.decoder, base.tokenizer, lambda digest: library.by_digest(digest).load(base.shape))
    yield {
        "engine": engine,
        "base": base,
        "model_name": card.name,
        "adapter": AdapterRef(card.digest),
        "instructions": card.instructions,
    }
    engine.check()
    engine.close()


class Standard:
    """What both suites are told."""

    @pytest.fixture(autouse=True)
    def _given(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatPlural

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self._parameters

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 100, "timeout": 60, "stop": []}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        """It is shown the schema as it was trained to be, and kept from telling one joke over and over: a grammar holds
        the form of an answer, but cannot make a small model end a string within the suite's 100 tokens."""
        return {"method": "function_calling", "repetition_penalty": 1.2}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False

    @property
    def supported_usage_metadata_details(self) -> dict[str, Any]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatPlural(**self._parameters, max_tokens=2)
        question = "Which of these is a bird: a stone, a robin, a boat or a cloud? " * 4
        model.invoke(question)
        if not stream:
            return model.invoke(question)
        whole, *rest = model.stream(question)
        for chunk in rest:
            whole += chunk
        return whole


class TestUnit(Standard, ChatModelUnitTests):
    pass


class TestIntegration(Standard, ChatModelIntegrationTests):
    pass
