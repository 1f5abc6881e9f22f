"""LangChain's own standard tests of chat models through langchain-openai, against a server on the real base.

As in tests/engine/test_standard.py, the tool calling specialist takes them: the suite asks a model to call a tool
unasked. What is declared is what is so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from plural.wiring.network import Network
from tests.serve.tiny import served


@pytest.fixture(scope="module")
def url(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("library")
    with Network.open(library=folder) as network:
        with served(network) as running:
            yield f"{running.url}/v1"
        network.engine.check()


class TestIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, url: str) -> None:
        self._url = url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # LangChain never closes its clients: these leave no socket open when a test's event loop ends.
        limits = httpx.Limits(max_keepalive_connections=0)
        clients = {"http_client": httpx.Client(limits=limits), "http_async_client": httpx.AsyncClient(limits=limits)}
        return {"model": "toolcall", "base_url": self._url, "api_key": "none", "stream_usage": True} | clients

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 100, "timeout": 60, "stop": [], "max_retries": 0}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        """Kept from telling one joke over and over, as there."""
        return {"method": "function_calling", "extra_body": {"repetition_penalty": 1.2}}

    @property
    def supports_json_mode(self) -> bool:
        """The wire's JSON mode knows no schema, and so small a model does not end an object of its own making within
        the suite's 100 tokens. In process the schema is the grammar, and the test is passed there."""
        return False

    @property
    def supports_image_inputs(self) -> bool:
        return False

    @property
    def supported_usage_metadata_details(self) -> dict[str, Any]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatOpenAI(**self.chat_model_params, max_tokens=2)
        question = "Which of these is a bird: a stone, a robin, a boat or a cloud? " * 4
        model.invoke(question)
        if not stream:
            return model.invoke(question)
        whole, *rest = model.stream(question)
        for chunk in rest:
            whole += chunk
        return whole
