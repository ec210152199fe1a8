"""Engines: a model artifact made to compute, by ONNX Runtime or by torch."""

from shared.engines.engine import Embedded, Engine, NoRerankerError, TokensError, open_engine

__all__ = ["Embedded", "Engine", "NoRerankerError", "TokensError", "open_engine"]
