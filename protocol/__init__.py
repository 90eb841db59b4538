"""The protocol without a machine under it: bytes, instants and answers in; bytes, deadlines and requests out.

Nothing here opens a socket or a file, starts a thread, reads a clock or draws from a global random generator. Time is
``now``, an ``int`` of nanoseconds on any monotonic clock; randomness is a ``random.Random`` that the caller owns. The
engines, the simulator and the tests therefore run exactly this code.
"""
