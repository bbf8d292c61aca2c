/* Transport-wide feedback of subscribers (draft-holmer-rmcat-transport-wide-cc-extensions-01), read and resolved.
 *
 * The reference is `TransportFeedback.parse_body`, `SentLog.resolve` and `Estimate.receive_feedback`.
 */

#define FEEDBACK_CHUNKS 20 /* where they begin */
#define TICK 0.00025
#define TICKS_PER_REFERENCE 256
#define SHARE 200 /* ticks */
#define RESERVED 3
#define WINDOW 1.0 /* seconds */
#define SMOOTHING 0.2

static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

struct statuses { /* those of one status chunk */
    uint32_t count;
    uint32_t bits; /* of each symbol in the chunk; 0: all have the same */
    uint32_t chunk;
};

static struct statuses read_chunk(const uint8_t *at, uint32_t most) {
    uint32_t chunk = get16(at);
    struct statuses found = {chunk & 0x1FFF, 0, chunk};
    if (chunk & 0x8000) {
        found.bits = chunk & 0x4000 ? 2 : 1;
        found.count = 14 / found.bits;
    }
    if (found.count > most)
        found.count = most;
    return found;
}

static uint32_t symbol_at(const struct statuses *statuses, uint32_t place) {
    if (!statuses->bits)
        return statuses->chunk >> 13;
    return statuses->chunk >> (14 - statuses->bits * (place + 1)) & (statuses->bits == 2 ? 3 : 1);
}

/* Whether the chunks and deltas of a feedback are whole; then how many packets it tells of, and where the deltas begin. */
static int measure(const uint8_t *packet, size_t length, uint32_t covered, uint32_t *received, size_t *deltas) {
    size_t at = FEEDBACK_CHUNKS, needed = 0;
    *received = 0;
    for (uint32_t distance = 0; distance < covered;) {
        if (at + 2 > length)
            return 0;
        struct statuses statuses = read_chunk(packet + at, covered - distance);
        at += 2;
        if (!statuses.bits) {
            uint32_t symbol = symbol_at(&statuses, 0);
            if (symbol == RESERVED)
                return 0;
            needed += (size_t)symbol * statuses.count;
            *received += symbol ? statuses.count : 0;
        } else {
            for (uint32_t place = 0; place < statuses.count; place++) {
                uint32_t symbol = symbol_at(&statuses, place);
                if (symbol == RESERVED)
                    return 0;
                needed += symbol;
                *received += symbol != 0;
            }
        }
        if (needed > length)
            return 0;
        distance += statuses.count;
    }
    *deltas = at;
    return at + needed <= length;
}

static void drop(struct estimate *estimate) {
    struct places *places = estimate->places;
    estimate->numbers->octets -= estimate->shares[places->first].octets;
    places->first = (places->first + 1) % estimate->kept;
    places->count--;
}

static void add(struct estimate *estimate, int64_t ticks, uint64_t octets) {
    struct places *places = estimate->places;
    if (places->count == estimate->kept)
        drop(estimate);
    struct share *share = estimate->shares + (places->first + places->count++) % estimate->kept;
    share->at = (double)ticks * TICK;
    share->octets = (double)octets;
    estimate->numbers->octets += share->octets;
}

/* Learn how long packets were on the way, the least and the last, and let go of what came a second before `newest`. */
static void learn(struct estimate *estimate, double least, double last, double newest) {
    struct estimates *numbers = estimate->numbers;
    double lowest = numbers->lowest;
    if (!(-WINDOW < last - lowest && last - lowest < 60 * WINDOW) || least < lowest)
        lowest = least;
    numbers->lowest = lowest;
    numbers->queueing = last - lowest;
    for (;;) {
        double since = newest - estimate->shares[estimate->places->first].at;
        if (0 <= since && since < WINDOW)
            return;
        drop(estimate);
    }
}

/* Take `packet`, if it is transport-wide feedback and nothing else, for the packets in `log`, of which each is told of
 * once. Returns 0, and has done nothing, when it is for Python to say what that is. */
int kernel_feedback(const uint8_t *packet, size_t length, struct log *log, struct estimate *estimate, double now) {
    if (length < FEEDBACK_CHUNKS || packet[0] != 0x8F || packet[1] != 205 ||
        4 * ((size_t)get16(packet + 2) + 1) != length)
        return 0;
    uint32_t base = get16(packet + 12), covered = get16(packet + 14), received, next = *log->next;
    size_t deltas;
    if (!measure(packet, length, covered, &received, &deltas))
        return 0;
    struct estimates *numbers = estimate->numbers;
    numbers->at = now;
    if (covered)
        numbers->loss += SMOOTHING * (1 - (double)received / covered - numbers->loss);
    int32_t reference = (int32_t)(((uint32_t)packet[16] << 16 | get16(packet + 17)) ^ 0x800000) - 0x800000;
    int64_t ticks = (int64_t)reference * TICKS_PER_REFERENCE, began = 0;
    uint64_t octets = 0;
    double least = 0, last = 0;
    int known = 0;
    const uint8_t *delta = packet + deltas, *chunk = packet + FEEDBACK_CHUNKS;
    for (uint32_t distance = 0; distance < covered; chunk += 2) {
        struct statuses statuses = read_chunk(chunk, covered - distance);
        if (!statuses.bits && !symbol_at(&statuses, 0)) {
            distance += statuses.count;
            continue;
        }
        for (uint32_t place = 0; place < statuses.count; place++, distance++) {
            uint32_t symbol = symbol_at(&statuses, place);
            if (!symbol)
                continue;
            ticks += symbol == 1 ? *delta : (int16_t)get16(delta);
            delta += symbol;
            uint32_t number = (base + distance) & 0xFFFF, slot = number & log->mask, age = (next - number) & 0xFFFF;
            if (!log->sizes[slot] || !age || age > log->mask + 1)
                continue;
            last = (double)ticks * TICK - log->at[slot];
            if (!known || last < least)
                least = last;
            known = 1;
            if (!octets)
                began = ticks;
            octets += log->sizes[slot];
            log->sizes[slot] = 0;
            if (ticks - began <= -SHARE || ticks - began >= SHARE) {
                add(estimate, ticks, octets);
                octets = 0;
            }
        }
    }
    if (octets)
        add(estimate, ticks, octets);
    if (known) {
        struct places *places = estimate->places;
        learn(estimate, least, last, estimate->shares[(places->first + places->count - 1) % estimate->kept].at);
    }
    return 1;
}

/* Verify and decrypt SRTCP where it lies, and take it if it is transport-wide feedback and nothing else. Returns 1 if
 * so, 0 if it is something else, of `*length` bytes then, and -1 if libsrtp refuses it. */
int kernel_feedback_lane(void *unprotect_function, struct feedback_lane *lane, uint8_t *packet, int *length, double now) {
    if (((protect_t)unprotect_function)(lane->session, packet, length))
        return -1;
    return lane->log && kernel_feedback(packet, (size_t)*length, lane->log, lane->estimate, now);
}
