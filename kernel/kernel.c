/* The innermost loops of triosfu's packet path.
 *
 * Each does what a loop in Python does, which is the reference: `Forwarder.forward` and `Messages._write`. Nothing here
 * allocates, waits, or decides anything that is not straight: what is not is left to Python.
 */

#define HEADER_SIZE 12
#define CLOSED 2

typedef int (*protect_t)(void *session, void *packet, int *length);

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value);
}

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
        if (part->picture_bits == 15)
            put16(payload + part->picture_at, 0x8000 | ((uint32_t)(part->number + lane->picture) & 0x7FFF));
        else if (part->picture_bits)
            payload[part->picture_at] = (uint8_t)((part->number + lane->picture) & 0x7F);
        if (part->tl0_at)
            payload[part->tl0_at] = (uint8_t)(part->tl0 + lane->tl0);
        if (part->key_at) {
            uint8_t *key = payload + part->key_at;
            *key = (uint8_t)((*key & 0xE0) | ((part->key + lane->key) & 0x1F));
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
        if (lane->armed && lane->source == burst->source && lane->sink->session && lane->sink->way) {
            struct sink *sink = lane->sink;
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
                char *packet = queue->arena + (size_t)slot * queue->slot_size;
                int length = write_packet((uint8_t *)packet, lane, part, burst->tails);
                if (part->transport_at)
                    stamp((uint8_t *)packet + part->transport_at, lane->log, (uint32_t)length, burst->now);
                if (protect(sink->session, packet, &length)) {
                    sink->refused++;
                } else {
                    queue->iovecs[slot].iov_len = (size_t)length;
                    queue->ways[slot] = sink->way;
                    queue->kept[slot] = part->vital;
                    queue->lanes[slot] = number;
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

/* Write the messages for `slots` from `first` on, runs to one address as one; their number. `starts` gets the first slot
 * of each. A run is cut by the kernel of the system (UDP_SEGMENT): all but its last datagram are of one size. */
uint32_t kernel_gather(const struct queue *queue, struct mmsghdr *headers, char *controls, uint32_t control_size,
                       uint32_t *starts, uint32_t first, uint32_t slots, int segmented, uint32_t most_segments,
                       size_t most_bytes) {
    uint32_t count = 0;
    const struct way *open = NULL; /* whose run may go on */
    size_t size = 0, total = 0;
    struct msghdr *header = NULL;
    for (uint32_t slot = first; slot < first + slots; slot++) {
        const struct way *way = queue->ways[slot];
        size_t length = queue->iovecs[slot].iov_len;
        if (way == open && length <= size && header->msg_iovlen < most_segments && total + length <= most_bytes) {
            total += length;
            if (++header->msg_iovlen == 2) {
                char *control = controls + (size_t)(count - 1) * control_size;
                header->msg_control = control;
                header->msg_controllen = control_size;
                *(uint16_t *)CMSG_DATA((struct cmsghdr *)control) = (uint16_t)size;
            }
            if (length < size)
                open = NULL;
            continue;
        }
        starts[count] = slot;
        header = &headers[count++].msg_hdr;
        header->msg_name = way->name;
        header->msg_namelen = way->name_length;
        header->msg_iov = queue->iovecs + slot;
        header->msg_iovlen = 1;
        header->msg_control = NULL;
        header->msg_controllen = 0;
        size = total = length;
        open = segmented && !way->whole && length <= queue->slot_size ? way : NULL;
    }
    return count;
}
