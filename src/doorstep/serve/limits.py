"""Every limit of the data plane by name. What waits or grows has a line here."""

from __future__ import annotations

BODY_BYTES_MAX = 10 * 1024 * 1024
BODIES_BYTES_MAX = 256 * 1024 * 1024
"""Of bodies that are still arriving, together in one worker."""
HEADER_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
CHUNKS_MAX = 10_000
"""Chunks of one body: a chunk costs a callback, however small it is."""
PIPELINE_MAX = 16
"""Requests of one connection that wait for their answers; then we stop reading from it."""
CONNECTIONS_MAX = 8192
IN_FLIGHT_MAX = 1024
"""Requests of one worker without an answer; the next one gets 503 and Retry-After."""
IN_FLIGHT_ROWS_MAX = 65_536
PATIENCE = 0.5
"""The part of a request's time that it may be expected to wait; beyond, it is refused at once. What
a row takes on a busy machine varies by as much, and a longer queue answers nobody sooner."""
TURN_NS = 5_000_000
"""About what is scored in one turn of the loop. The rest waits for the next one, so that who comes
meanwhile is heard, and refused at once where that is due."""
OUTCOMES_MAX = 10_000
FALLBACKS_MAX = 8
BREAKER_WINDOW_S = 10.0
BREAKER_KEPT = 400
"""Of the newest requests of a version, from the first failure on, those that are judged."""
BREAKER_WHOLE, BREAKER_WHOLE_SHARE = 5, 0.5
BREAKER_ROWS, BREAKER_ROWS_SHARE = 20, 0.95
"""So many failures, and such a share of the requests in the window, open a version's breaker."""
BREAKER_OPEN_S = (2.0, 30.0)
"""Before an open breaker lets a request try; doubled each time that fails."""
CACHE_ENTRIES_MAX = 100_000
CACHE_BYTES_MAX = 64 * 1024 * 1024
"""Of answers that one worker may give again, of all its services together."""
KEY_CHARS_MAX = 256
KEYS_MAX = 200_000
KEYS_BYTES_MAX = 256 * 1024 * 1024
"""Idempotency keys of one node and the answers that are kept for them."""
KEY_KEPT_S = 24 * 3600
KEY_FLIGHT_S = 900
"""Longer than any request takes: a key that is in flight for so long is free again."""
KEY_BUSY_S = 0.05
"""How long a worker's loop stands still for another worker that writes the keys."""
KEY_AGAIN_S = 0.05
KEY_STORE_S = 5.0
"""How often and how long an answer that waits for the other worker is tried to be stored."""
KEY_SWEEP_S = 60.0
KEY_SLICE = 20
"""Keys that one request may have to drop: about three milliseconds."""

HANDSHAKES_MAX = 512
"""Of TLS, under way at one port of one worker, each with its buffers; the next client is closed."""
HANDSHAKE_S = 10.0
TLS_CLOSE_S = 5.0
HEADER_S = 10.0
BODY_S = 30.0
IDLE_S = 75.0
SEND_S = 30.0
"""How long a client may leave answers unread that do not fit into the socket's buffers."""
LINGER_S = 1.0
"""After a refusal: how long what still arrives is thrown away, so that the answer is read."""
SWEEP_S = 0.5
DRAIN_S = 5.0
"""A draining worker gives an idle keep-alive connection this long to send its last request."""
ORPHAN_S = 600.0
"""How long workers serve on after their supervisor died and no other took over."""

RPC_BYTES_MAX = 4 * 1024 * 1024
"""Of one gRPC message, as is gRPC's own default. Empty messages inside take 45 times their bytes
once they are decoded; a worker decodes one message at a time."""
RPC_CALLS_MAX = 256
"""gRPC calls of one worker at once; the next is refused."""
RPC_CONNECTION_CALLS_MAX = 128
RPC_AGE_S = 600.0
RPC_AGE_GRACE_S = 660.0
"""A gRPC connection of this age is asked to go, and ended when it has not gone after the grace:
the longest time that a service may take, and a minute."""
RPC_STOP_S = 5.0

TEXT_CHARS_MAX = 100_000
CATEGORY_CHARS_MAX = 1_000
ID_CHARS_MAX = 256
PROBLEMS_SAID_MAX = 8
"""Bad fields of one request that its refusal names."""
FOUND_CHARS_MAX = 60
"""Of a value that is repeated in an error message."""
INT_MAX = 2**53
"""Whole numbers travel as float64: beyond this they are no longer exact."""

FRAME_BYTES_MAX = 256 * 1024 * 1024
ENGINE_PENDING_MAX = 4096
ENGINE_OUT_BYTES_MAX = 64 * 1024 * 1024
"""Of requests that wait in one worker for an engine that is being started."""
ENGINE_BATCH_ROWS_MAX = 4096
HUNG_ASKS = 3
HUNG_S = 5.0
"""An engine that let so many asks time out, and said nothing for so long, is replaced."""
ENGINE_SWEEP_S = 0.01
ENGINE_RECONNECT_S = (0.02, 0.5)

POLL_S = 0.2
REPORT_S = 0.5
REPORT_IDLE_S = 2.0
RETRY_S = 5.0
"""Before a plan that could not be loaded is tried again."""
WORKER_START_S = 60.0
ENGINE_START_S = 300.0
BACKOFF_S = (0.05, 5.0)
STEADY_S = 10.0
"""A child that lived this long is restarted at once when it dies."""
PROBLEMS_MAX = 32
