"""The shape of the Python original: one dict, one lock, and at every mint a look through all of it."""
import secrets
import sys
import threading
import time

TTL_SECONDS = 3600  # so that what is outstanding stays so
tickets = {}
lock = threading.Lock()


def mint(user_id, provider):
    now = int(time.time())
    ticket = secrets.token_urlsafe(32)
    with lock:
        for expired in [t for t, info in tickets.items() if info["expires_at"] < now]:
            del tickets[expired]
        tickets[ticket] = {"user_id": user_id, "provider": provider, "minted_at": now, "expires_at": now + TTL_SECONDS}
    return ticket


for i in range(int(sys.argv[1])):  # without the look
    tickets[secrets.token_urlsafe(32)] = {"user_id": f"{i:016}", "provider": "oidc", "minted_at": 0, "expires_at": time.time() + TTL_SECONDS}
for line in sys.stdin:
    for _ in range(int(line)):
        mint("0123456789abcdef", "oidc")
    print("done", flush=True)
