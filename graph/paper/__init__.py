"""The paper broker: a venue that fills by the prices it is told, with terms, rules of matching and books of its own."""

from graph.paper.broker import PaperBroker
from graph.paper.terms import PaperTerms

__all__ = ["PaperBroker", "PaperTerms"]
