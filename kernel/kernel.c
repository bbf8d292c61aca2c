/* The innermost loops of triosfu's packet path.
 *
 * Each does what a loop in Python does, which is the reference: `Forwarder.forward`, `Messages._arrange` and `_write`.
 * Nothing here allocates, waits, or decides anything that is not straight: what is not is left to Python.
 */

#define CLOSED 2
#define NONE UINT32_MAX
#define LINE 64 /* bytes, of the processor's caches */

typedef int (*protect_t)(void *session, void *packet, int *length);

/* Write `part` as `lane` sends it; the length. */
static int write_packet(uint8_t *packet, const struct lane *lane, const struct part *part, const char *tails) {
    packet[0] = part->first;
    packet[1] = part->marker | lane->payload_type;
    put16(packet + 2, (uint32_t)(part->index + lane->sequence));
    put32(packet + 4, part->timestamp + lane->timestamp);
    put32(packet + 8, lane->ssrc);
    memcpy(packet + HEADER_SIZE, tails + part->tail, part->tail_length);
    if (lane->renumbers) {
        uint8_t *payload = packet + part->payload_at;
        if (part->vp8.picture_bits == 15)
            put16(payload + part->vp8.picture_at, 0x8000 | ((uint32_t)(part->vp8.number + lane->picture) & 0x7FFF));
        else if (part->vp8.picture_bits)
            payload[part->vp8.picture_at] = (uint8_t)((part->vp8.number + lane->picture) & 0x7F);
        if (part->vp8.tl0_at)
            payload[part->vp8.tl0_at] = (uint8_t)(part->vp8.tl0 + lane->tl0);
        if (part->vp8.key_at) {
            uint8_t *key = payload + part->vp8.key_at;
            *key = (uint8_t)((*key & 0xE0) | ((part->vp8.key + lane->key) & 0x1F));
        }
        if (part->frame_at) {
            uint8_t *frame = packet + part->frame_at;
            put16(frame, ((uint32_t)frame[0] << 8 | frame[1]) + (uint32_t)lane->frame);
        }
    }
    return HEADER_SIZE + (int)part->tail_length;
}

/* Write the transport-wide sequence number `at` its place, and remember under it a packet of `size` bytes. */
static void stamp(uint8_t *at, struct log *log, uint32_t size, double now) {
    uint32_t number = *log->next & 0xFFFF, slot = number & log->mask;
    *log->next = (number + 1) & 0xFFFF;
    log->at[slot] = now;
    log->sizes[slot] = size;
    put16(at, number);
}

/* Send `burst` along `lanes`, from the lane and part `at` on, into `queue`. Where a lane is not straight, it and the part
 * are noted in `left`, and it is not armed any more. Returns 1 when the queue is full, with `at` where to go on, and 0
 * at the end. */
int kernel_forward(void *protect_function, struct queue *queue, struct lane **lanes, uint32_t count,
                   const struct burst *burst, struct stop *at, struct stop *left, uint32_t *left_count) {
    protect_t protect = (protect_t)protect_function;
    uint32_t first = at->part;
    for (uint32_t number = at->lane; number < count; number++, first = 0) {
        struct lane *lane = lanes[number];
        if (number + 1 < count)
            __builtin_prefetch(lanes[number + 1]->sink);
        if (number + 3 < count)
            __builtin_prefetch(lanes[number + 3]);
        if (lane->armed == CLOSED)
            continue;
        if (lane->armed && lane->source != burst->source && burst->video && !burst->keyframe &&
            burst->now - lane->arrival <= burst->stalled)
            continue;
        uint32_t place = first;
        struct sink *sink = lane->sink;
        struct stream *stream = sink->gcm && lane->armed ? stream_of(sink->gcm, lane->ssrc) : NULL;
        if (lane->armed && lane->source == burst->source && (stream || sink->session) && sink->way) {
            if (queue->used >= queue->enough) { /* here, where it cuts no run */
                at->lane = number;
                at->part = first;
                return 1;
            }
            for (; place < burst->count; place++) {
                const struct part *part = burst->parts + place;
                if (part->index != lane->next_index || part->temporal > lane->gate || (part->transport_at && !lane->log))
                    break;
                if (queue->queued == queue->slots) {
                    at->lane = number;
                    at->part = place;
                    return 1;
                }
                uint32_t slot = queue->queued;
                char *packet = queue->arena + queue->used;
                int length = write_packet((uint8_t *)packet, lane, part, burst->tails);
                if (part->transport_at)
                    stamp((uint8_t *)packet + part->transport_at, lane->log, (uint32_t)length, burst->now);
                if (stream)
                    length = protect_gcm(sink->gcm, stream, (uint8_t *)packet, part->payload_at, length);
                else if (protect(sink->session, packet, &length))
                    length = REFUSED;
                if (length <= 0) {
                    sink->refused++;
                } else {
                    queue->iovecs[slot].iov_base = packet;
                    queue->iovecs[slot].iov_len = (size_t)length;
                    queue->ways[slot] = sink->way;
                    queue->kept[slot] = part->vital;
                    queue->lanes[slot] = number;
                    queue->used += ((uint32_t)length + LINE - 1) / LINE * LINE;
                    queue->queued = slot + 1;
                }
                lane->next_index++;
                lane->packets++;
                lane->octets += part->octets;
                lane->arrival = part->arrival;
                lane->went = 1;
            }
        }
        if (place < burst->count) {
            left[*left_count].lane = number;
            left[*left_count].part = place;
            ++*left_count;
            lane->armed = 0;
        }
    }
    return 0;
}

/* Whose order a datagram is part of: the SSRC of a packet of RTP, and 0 for all else. */
static uint64_t source_of(const struct iovec *datagram, uint32_t slot_size) {
    const uint8_t *at = datagram->iov_base;
    if (datagram->iov_len < HEADER_SIZE || datagram->iov_len > slot_size || at[0] >> 6 != 2 || at[1] >> 5 == 6)
        return 0;
    return 1ull << 32 | (uint64_t)at[8] << 24 | (uint64_t)at[9] << 16 | (uint64_t)at[10] << 8 | at[11];
}

/* Put `slot` among those to its address: behind what its source has sent, or, as the first of its source, before the
 * first source that has begun with a smaller one. */
static void join(struct queue *queue, struct way *way, uint32_t slot) {
    uint32_t *following = queue->following, before = NONE, behind = NONE, seen = NONE;
    const uint64_t *sources = queue->sources, source = sources[slot];
    if (sources[way->last] == source) {
        behind = way->last;
    } else {
        int found = 0;
        for (uint32_t each = way->first; each != NONE; before = each, each = following[each]) {
            if (sources[each] == source)
                behind = each;
            else if (!found && (before == NONE || sources[before] != sources[each]) &&
                     queue->iovecs[each].iov_len < queue->iovecs[slot].iov_len) {
                found = 1;
                seen = before;
            }
        }
        if (behind == NONE)
            behind = found ? seen : before;
    }
    way->last = slot;
    if (behind == NONE) {
        following[slot] = way->first;
        way->first = slot;
    } else {
        following[slot] = following[behind];
        following[behind] = slot;
    }
}

/* Bring the `slots` from `first` on into the order in which they are sent, with their `iovecs`: as they stand, or
 * those to one address together, in the place of the first of them. */
void kernel_arrange(struct queue *queue, uint32_t *order, struct iovec *iovecs, uint32_t first, uint32_t slots,
                    int together) {
    uint32_t place = 0, end = first + slots;
    if (!together) {
        for (; place < slots; place++)
            order[place] = first + place;
        memcpy(iovecs, queue->iovecs + first, slots * sizeof *iovecs);
        return;
    }
    uint64_t turn = ++queue->turn;
    for (uint32_t slot = first; slot < end; slot++) {
        struct way *way = queue->ways[slot];
        queue->sources[slot] = source_of(queue->iovecs + slot, queue->slot_size);
        queue->later[slot] = way->turn == turn;
        if (way->turn == turn) {
            join(queue, way, slot);
        } else {
            way->turn = turn;
            way->first = way->last = slot;
            queue->following[slot] = NONE;
        }
    }
    for (uint32_t head = first; head < end; head++)
        if (!queue->later[head])
            for (uint32_t slot = queue->ways[head]->first; slot != NONE; slot = queue->following[slot]) {
                order[place] = slot;
                iovecs[place++] = queue->iovecs[slot];
            }
}

/* Write the messages for `count` places of `order` from `first` on, runs to one address as one; their number. `starts`
 * gets the first place of each. A run is cut by the kernel of the system (UDP_SEGMENT): all but its last datagram are
 * of one size. */
uint32_t kernel_gather(const struct queue *queue, const uint32_t *order, struct iovec *iovecs, struct mmsghdr *headers,
                       char *controls, uint32_t control_size, uint32_t *starts, uint32_t first, uint32_t count,
                       int segmented, uint32_t most_segments, size_t most_bytes) {
    uint32_t messages = 0;
    const struct way *open = NULL; /* whose run may go on */
    size_t size = 0, total = 0;
    struct msghdr *header = NULL;
    for (uint32_t place = first; place < first + count; place++) {
        const struct way *way = queue->ways[order[place]];
        size_t length = iovecs[place].iov_len;
        if (way == open && length <= size && header->msg_iovlen < most_segments && total + length <= most_bytes) {
            total += length;
            if (++header->msg_iovlen == 2) {
                char *control = controls + (size_t)(messages - 1) * control_size;
                header->msg_control = control;
                header->msg_controllen = control_size;
                *(uint16_t *)CMSG_DATA((struct cmsghdr *)control) = (uint16_t)size;
            }
            if (length < size)
                open = NULL;
            continue;
        }
        starts[messages] = place;
        header = &headers[messages++].msg_hdr;
        header->msg_name = way->name;
        header->msg_namelen = way->name_length;
        header->msg_iov = iovecs + place;
        header->msg_iovlen = 1;
        header->msg_control = NULL;
        header->msg_controllen = 0;
        size = total = length;
        open = segmented && !way->whole && length <= queue->slot_size ? way : NULL;
    }
    return messages;
}
