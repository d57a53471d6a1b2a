"""Arrays between processes: tokens, the leases that they stand for, and the sockets by which two processes speak.

- ``peers``: which process this is, and whether another one has ended
- ``desk``: the thread that answers for what this process has shared, and watches those it has received from
- ``ends``: what each side does when an array is given back, and when the other side dies
- ``memory``: what can be exported, and the memory of other processes that is open here
- ``token``: what travels
"""
