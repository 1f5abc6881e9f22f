"""The wire: the network over HTTP, as OpenAI's and vLLM's clients speak it, and over MCP. Holds no tensors."""

from plural.serve.app import Server
from plural.serve.backend import Backend, Model
from plural.serve.keys import Keyring
from plural.serve.settings import ServeSettings
from plural.serve.store import Store

__all__ = ["Backend", "Keyring", "Model", "ServeSettings", "Server", "Store"]
