"""Whole sessions on virtual time: ten minutes of trading, the exchange included, in one process and one seed.

day.py        what goes wrong in one session, drawn from its seed
market.py     where the price goes, and the exchange that has it
courier.py    the way to the broker and back, on which things get lost
trouble.py    a database that is full, locked or broken for a while
parts.py      parts of the application that let somebody look on
life.py       one process of the session: from its start to its end, in order or killed
witness.py    who watches all of it, and knows the rules that hold always
play.py       one seed: life after life, until the session is over
rare.py       the states that hardly ever come, each of which some seed must reach
many.py       seeds by the thousand, on all cores
"""
