"""The live session: one stream of market data in, orders out, for hours, whatever breaks.

status.py      how a session stands, and how it ended: plain values
"""
