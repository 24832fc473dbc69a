"""Orders at a spot exchange that speaks Binance's protocol: the desk's broker over REST and a user stream.

opening.py      the broker on real sockets, as the settings have it
broker.py       ExchangeBroker: send, find, cancel, what was executed and is held; `follow` writes down what is told
user_stream.py  what the exchange tells of orders, connection after connection
books.py        what the exchange has executed and holds, read in pages
watch.py        each order as far as the stream and the answers have told of it
frames.py       from frames to what they say; nothing in a frame is believed
trades.py       executions as fills, with their fees in the quote currency
rest.py         requests: signed, weighed, each of them sent once
budget.py       how much may be asked for, and when
server_time.py  what time it is at the exchange
rules.py        the quantities and prices that each symbol takes
answers.py      the shapes of answers, and what a refusal means
signing.py      key and signature
terms.py        where the exchange is, and who trades there
"""
