"""An on-premises LLM appliance: an OpenAI-compatible endpoint over llama.cpp."""

__version__ = "0.1.0"
