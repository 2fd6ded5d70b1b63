"""Backend `openai`: any model behind an OpenAI-compatible endpoint, by Responses or Chat Completions.

`backend` holds the planner's and the implementer's conversations, with what `prompts` tells them; `model` asks one question
and waits a provider's trouble out; `responses` and `chat` are the two protocols; `errors` says what each error means.
Fail-over between endpoints, keys and budgets are the model proxy's (`sartor_agents.model_proxy`), through which every call
goes.
"""

from sartor_agents.backends.openai.backend import OpenAIBackend

__all__ = ["OpenAIBackend"]
