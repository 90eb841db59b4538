"""Every limit and default of the protocol, each with its unit, its reason and its source.

Sizes are bytes, instants and durations nanoseconds, rates bytes per second. What a person may change on the command
line has ``DEFAULT`` in its name; everything else is part of the protocol or protects memory.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000

# --- image -----------------------------------------------------------------------------------------------------------

CHUNK_SIZE_DEFAULT = MIB  # 2.68:1 on a /usr tree at level 3; 256 KiB gives 2.59, 4 MiB 2.75 (measured)
CHUNK_SIZE_MIN = 4 * KIB  # one page: a smaller write would make the disk read before it writes
CHUNK_SIZE_MAX = 16 * MIB  # a worker holds one chunk twice; this bounds the memory of a worker to 32 MiB
CHUNK_SIZE_STEP = 4 * KIB  # chunks start on page boundaries, so that writes stay aligned on 4096-byte sectors
RAW_SIZE_MAX = 1 << 60  # 1 EiB; far below where offsets would overflow a signed 64-bit file offset
MANIFEST_SIZE_MAX = 128 * MIB  # 1.9 million chunks: 1.8 TiB at 1 MiB chunks, 29 TiB at 16 MiB
STORED_OVERHEAD_MAX = 1 * KIB  # zstd's bound is size + size/256 + a header; see ``stored_size_max``
NAME_LENGTH_MAX = 128  # characters; image and session names
LABEL_COUNT_MAX = 64
LABEL_LENGTH_MAX = 1024
MATCH_PATTERN_COUNT_MAX = 16  # of one part of a match rule: models of a fleet that share one image
MATCH_LENGTH_MAX = 128  # DMI strings have at most 64 characters by habit
VOLUME_COUNT_MAX = 256  # partitions that a manifest describes: GPT tables have 128 entries
GPT_ENTRIES_SIZE = 16 * KIB  # what every GPT reserves for its entries (UEFI 5.3.1), once at each end of the disk

DIGEST_SIZE = 32  # BLAKE3-256
IMAGE_ID_SIZE = 16


def stored_size_max(raw_chunk_size: int) -> int:
    """Return the most bytes that a zstd frame of ``raw_chunk_size`` raw bytes may take (zstd's bound, rounded up)."""
    return raw_chunk_size + (raw_chunk_size >> 8) + STORED_OVERHEAD_MAX


# --- slices and symbols ----------------------------------------------------------------------------------------------

SOURCE_SYMBOLS_DEFAULT = 128  # k: 127 repair symbols left in GF(2^8); research table: k=200 saves 1 %, leaves 55
CODE_LENGTH = 255  # n: the non-zero points of GF(2^8)
SYMBOL_SIZE_STEP = 32  # keeps every symbol row SIMD-aligned in the buffers
SYMBOL_SIZE_MIN = 64
SYMBOL_SIZE_MAX = 8928  # fits MTU 9000 with the 32-byte header and 28 bytes of IP and UDP
OBJECT_MANIFEST = 0
OBJECT_IMAGE = 1
SLICE_COUNT_MAX = 1 << 23  # bounds a receiver's tables to 250 MB: streams of 1.4 TiB at MTU 1500, 8.7 TiB at 9000

WINDOW_SLICES_DEFAULT = 32  # D; see docs/ARCHITECTURE.md, "How far to interleave"
WINDOW_SIZE_DEFAULT = 9 * MIB  # and no more of a stream: where datagrams are large, all would wait for a window's end
WINDOW_SLICES_BURSTS = (
    128  # D at most where bursts of loss are measured (research §2.5: 500 datagrams cost 4 of a slice)
)
WINDOW_SIZE_BURSTS = 28 * MIB  # and as much of a stream as fits a receiver's slice pool five times
WINDOW_SLICES_MAX = 256  # D * 255 datagrams must fit the header's 16-bit ``window_left``
REPAIR_SYMBOLS_START = 2  # h before anything was measured: 1.6 % (research §2.4)
REPAIR_SYMBOLS_MAX = 127

# --- session ---------------------------------------------------------------------------------------------------------

DISCOVERY_GROUP = "239.255.71.67"  # administratively scoped, site-local (RFC 2365)
DISCOVERY_PORT = 7767
DATA_GROUP_BASE = "239.192.0.0"  # organisation-local scope, /14 (RFC 2365)
DATA_GROUP_BITS = 18

CONTROL_SIZE_MAX = 1400  # bytes of one control datagram: fits every link without fragmentation
HOST_LENGTH_MAX = 64
REASON_LENGTH_MAX = 400
RECEIVER_ID_SIZE = 16
RECEIVERS_MAX = 100_000
SESSIONS_HEARD_MAX = 256  # sessions a searching receiver remembers
POLL_RECEIVERS_MAX = 8 * 1250  # receivers one POLL bitmap covers: 1250 bytes in one datagram (research §1.5)
NACK_ITEMS_MAX = 148  # 9 bytes each: one datagram; what does not fit stays missing and is asked for next time

ANNOUNCE_FIRST_NS = 60 * MILLISECOND_NS  # first repeat of an ANNOUNCE, that whoever waits and lost one need not wait
ANNOUNCE_INTERVAL_NS = SECOND_NS  # up to which the interval doubles
SOLICITED_GAP_NS = 50 * MILLISECOND_NS  # least time between two ANNOUNCEs, however many solicit
JOIN_RETRY_NS = 150 * MILLISECOND_NS  # first repeat of an unanswered JOIN; doubles up to JOIN_RETRY_MAX_NS
JOIN_RETRY_MIN_NS = 50 * MILLISECOND_NS  # the same where JOINs are spread over less
JOIN_RETRY_MAX_NS = 2 * SECOND_NS  # four in the silence that makes a receiver vanish
JOIN_COUNT_MIN_NS = 400 * MILLISECOND_NS  # shortest time over which the sender judges how fast JOINs come
JOIN_SPREAD_UNKNOWN_NS = 250 * MILLISECOND_NS  # over which JOINs spread where nobody said how many will come
JOIN_COUNT_LATE_MIN_NS = 50 * MILLISECOND_NS  # JOIN_COUNT_MIN_NS during a session, of which nobody knows how many come
JOIN_SPREAD_MAX_NS = 120 * SECOND_NS  # RECEIVERS_MAX at JOIN_PER_S, and some more
SOLICIT_SPREAD_NS = 100 * MILLISECOND_NS  # longest wait before a SOLICIT; who hears another's meanwhile stays silent
SOLICIT_GROUP = 100  # how many may solicit at once, where nobody knows; 10 000 then send about a dozen
FEEDBACK_PER_S = 2_000  # messages a second a sender is willing to hear (research §1.5), shared out as follows
JOIN_PER_S = 1_100  # JOINs, and likewise DONEs: they never come together
REPORT_PER_S = 400  # routine REPORTs; who limits the rate speaks at once, see REPORT_URGENT_NS
WAITING_REPORT_PER_S = 200  # before the start, beside the JOINs
NACK_PER_S = 500  # above it every backoff doubles
DEFER_NS = 5 * SECOND_NS  # how long a receiver that is left behind keeps silent before it asks again
DEFER_MAX_NS = 60 * SECOND_NS  # what one forged DEFER can cost
REPORT_URGENT_NS = 200 * MILLISECOND_NS  # how often a receiver looks whether it limits the rate
FEEDBACK_ADVICE_GAP_NS = 20 * MILLISECOND_NS  # least time between two FEEDBACK_ADVICEs, whatever the news
STATUS_INTERVAL_NS = 100 * MILLISECOND_NS
STATUS_INTERVAL_IDLE_MIN_NS = 10 * MILLISECOND_NS  # right after the last symbol of a pass, doubling to STATUS_INTERVAL
REPORT_INTERVAL_MIN_NS = 50 * MILLISECOND_NS
START_CREDIT = 16 * MIB  # bytes that are handed out before a receiver has said that a quarter of them passed it
START_WAIT_NS = 250 * MILLISECOND_NS  # ... or so much time has passed, since reports get lost like anything else
START_REPORT_INTERVAL_MIN_NS = 15 * MILLISECOND_NS  # REPORT_INTERVAL_MIN_NS until then
NACK_COPY_LOSS_PPM = 20_000  # where a receiver loses more, a NACK is said twice, which else may be lost
NACK_COPY_SLICES_MAX = 8  # if it asks for no more slices: where many are lacking, they are lacking to others as well
NACK_COPY_NS = 5 * MILLISECOND_NS  # the second time, when what lost the first is over
FAIL_COPIES = 3  # a failing receiver does not stay for an answer
END_REPEAT_COUNT = 4
END_REPEAT_NS = 5 * MILLISECOND_NS  # the sender's command ends after the last one
DONE_REPEAT_MAX_NS = 2 * SECOND_NS  # up to which the time until the next DONE doubles, until one is acknowledged
POLL_PER_S_RECEIVERS = 20_000  # a POLL waits N / this: 20 ms for 400 receivers, half a second for 10 000
POLL_DELAY_MAX_NS = 500 * MILLISECOND_NS
SENDER_SILENCE_NS = 8 * SECOND_NS  # a receiver that hears nothing for so long takes the sender for gone
DATA_SILENCE_NS = (
    30 * SECOND_NS
)  # ... that hears it announced, and nothing of its data; a sender's disk may stall as long
SENDER_REPLACED_NS = 2 * SECOND_NS  # silent for so long, and announced anew: the sender was started again
RECEIVER_SILENCE_NS = 8 * SECOND_NS  # at least; grows with the report interval of a large fleet
REPORTS_MISSED_MAX = 6
SILENCE_CHECK_NS = 500 * MILLISECOND_NS  # how often the fleet is looked through for those that fell silent

# --- feedback (RFC 5401, RFC 5740 §5) --------------------------------------------------------------------------------

BACKOFF_FACTOR = 6  # K for unicast feedback (NORM developer guide; research §1.2)
BACKOFF_MAX_NS = 20 * SECOND_NS  # however slow and however many: also what one forged STATUS can cost
HOLD_OFF_MAX_NS = 30 * SECOND_NS  # (K + 2) * GRTT at the largest GRTT is 16 s
FEEDBACK_SCALE_MAX = 256  # times K * GRTT_MIN is 15 s: 100 000 receivers that all lack something, 6 000 NACKs a second
GRTT_START_NS = 10 * MILLISECOND_NS  # as GRTT_MIN_NS: the first samples raise it at once where that is too little
GRTT_MIN_NS = 10 * MILLISECOND_NS  # scheduling jitter, not the wire, bounds it from below (research §1.4)
GRTT_MAX_NS = 2 * SECOND_NS
ECHO_BACKLOG_MAX_PERMILLE = 20  # of a socket buffer may wait where a round trip is measured: 10 ms at 1 Gbit/s
AGGREGATION_MAX_NS = 20 * MILLISECOND_NS  # how long NACKs of several receivers are merged before the answer
SCAN_INTERVAL_NS = 10 * MILLISECOND_NS  # how often a receiver looks for slices whose window has passed
REORDER_GUARD = 64  # datagrams that may overtake one another before a gap counts as loss: one segmentation batch
DAMAGED_CHUNK_RETRIES_MAX = 12  # a chunk that is complete but wrong so often will not become right
SEQUENCE_MAX = 1 << 62  # datagrams of one session; sums of two sequence numbers stay within 64 signed bits
SEQUENCE_JUMP_MAX = 1 << 26  # datagrams a stream may seem to jump: a minute at 10 Gbit/s; beyond it a header is damaged

# --- rate (research §3) ----------------------------------------------------------------------------------------------

MEGABIT = 125_000  # bytes per second
RATE_FLOOR_BYTES_PER_S = 1 * MEGABIT
RATE_START_SHARE = 0.6  # of the sender's link: what a search begins with; socket buffers cover it until a report
RATE_START_BYTES_PER_S = 1_000 * MEGABIT  # where the link's speed is not known
CONTROL_INTERVAL_MAX_NS = 200 * MILLISECOND_NS
RATE_CEILING_BYTES_PER_S = 100_000 * MEGABIT

# --- memory ----------------------------------------------------------------------------------------------------------

POOL_SIZE_DEFAULT = 144 * MIB  # a receiver's slice buffers; as much again for repair symbols at extreme loss
POOL_SIZE_MIN = 16 * MIB  # a few chunks and windows
RING_SIZE_FIRST = 16 * MIB  # of it, used as long as that suffices: what processors cache, and a few windows
INBOX_DATAGRAMS_MAX = 4096  # control datagrams waiting for the machine; beyond it the newest is dropped and counted
