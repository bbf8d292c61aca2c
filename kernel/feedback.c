/* Transport-wide feedback of subscribers (draft-holmer-rmcat-transport-wide-cc-extensions-01), read and resolved.
 *
 * The reference is `TransportFeedback.parse_body` with `SentLog.resolve`.
 */

#define FEEDBACK_CHUNKS 20 /* where they begin */
#define LONGEST_FEEDBACK 2048
#define TICK 0.00025
#define TICKS_PER_REFERENCE 256
#define SHARE 200 /* ticks */
#define RESERVED 3

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

/* Read `packet`, one of transport-wide feedback and nothing else, and tell what came of the packets in `log`, of each
 * once. Returns 0, and has done nothing, when it is for Python to say what that is. */
int kernel_feedback(const uint8_t *packet, size_t length, struct log *log, struct told *told) {
    if (length < FEEDBACK_CHUNKS || length > LONGEST_FEEDBACK || packet[0] != 0x8F || packet[1] != 205 ||
        4 * ((size_t)get16(packet + 2) + 1) != length)
        return 0;
    uint32_t base = get16(packet + 12), covered = get16(packet + 14), received, next = *log->next;
    size_t deltas;
    if (!measure(packet, length, covered, &received, &deltas))
        return 0;
    int32_t reference = (int32_t)(((uint32_t)packet[16] << 16 | get16(packet + 17)) ^ 0x800000) - 0x800000;
    int64_t ticks = (int64_t)reference * TICKS_PER_REFERENCE, began = 0;
    uint64_t octets = 0, total = 0;
    double *numbers = told->numbers, *pair = numbers + 3;
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
            numbers[2] = (double)ticks * TICK - log->at[slot];
            if (!total || numbers[2] < numbers[1])
                numbers[1] = numbers[2];
            if (!octets)
                began = ticks;
            octets += log->sizes[slot];
            total += log->sizes[slot];
            log->sizes[slot] = 0;
            if (ticks - began <= -SHARE || ticks - began >= SHARE) {
                *pair++ = (double)ticks * TICK;
                *pair++ = (double)octets;
                octets = 0;
            }
        }
    }
    if (octets) {
        *pair++ = (double)ticks * TICK;
        *pair++ = (double)octets;
    }
    numbers[0] = (double)total;
    told->covered = covered;
    told->received = received;
    told->shares = (uint32_t)(pair - numbers - 3) / 2;
    return 1;
}
