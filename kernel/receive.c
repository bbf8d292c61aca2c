/* The packets of one stream, as they come: opened, read, and made ready to be sent on.
 *
 * A packet is straight if it is the next one of its stream, in the payload type of those before, without padding or
 * contributing sources, with extensions in the one-byte form, and begins no keyframe. Python sees to all others, and to
 * all that is counted. `RtpPacket`, `Vp8Descriptor` and `Shape` are the reference.
 */

#define ALONE 0x80    /* the first byte of a packet without extensions, */
#define EXTENDED 0x90 /* and with some */
#define ONE_BYTE 0xBEDE

struct seen { /* what the extensions of one packet say */
    int32_t transport; /* -1 for nothing */
    int32_t level;
};

/* The next element of a list from `at` on; where its value begins, or 0 behind the last one. */
static uint32_t next_element(const uint8_t *packet, uint32_t at, uint32_t end, uint32_t *number, uint32_t *size) {
    while (at < end && !packet[at])
        at++; /* padding */
    if (at >= end)
        return 0;
    *number = packet[at] >> 4;
    *size = (packet[at] & 0x0F) + 1u;
    return *number == 0 || *number == 15 || at + 1 + *size > end ? 0 : at + 1;
}

static struct seen look(const struct intake *intake, const uint8_t *packet, uint32_t at, uint32_t end) {
    struct seen seen = {-1, -1};
    int transport = 0, level = 0; /* the first of a number counts */
    uint32_t number, size;
    for (; (at = next_element(packet, at, end, &number, &size)); at += size) {
        if (number == intake->transport_id && !transport++ && size == 2)
            seen.transport = (int32_t)get16(packet + at);
        if (number == intake->level_id && !level++)
            seen.level = packet[at];
    }
    return seen;
}

/* Read the descriptor of VP8 (RFC 7741, section 4.2); 0 if it is damaged, or a keyframe begins. */
static int read_vp8(struct packet *packet, const uint8_t *payload, uint32_t size) {
    uint32_t at = 1;
    if (payload[0] & 0x80) {
        uint8_t flags;
        if (at >= size)
            return 0;
        flags = payload[at++];
        if (flags & 0x80) {
            if (at >= size)
                return 0;
            packet->vp8.picture_at = (uint8_t)at;
            packet->vp8.picture_bits = payload[at] & 0x80 ? 15 : 7;
            packet->vp8.number = payload[at++] & 0x7F;
            if (packet->vp8.picture_bits == 15) {
                if (at >= size)
                    return 0;
                packet->vp8.number = (uint16_t)(packet->vp8.number << 8 | payload[at++]);
            }
        }
        if (flags & 0x40) {
            if (at >= size)
                return 0;
            packet->vp8.tl0_at = (uint8_t)at;
            packet->vp8.tl0 = payload[at++];
        }
        if (flags & 0x30) {
            if (at >= size)
                return 0;
            if (flags & 0x20)
                packet->temporal = payload[at] >> 6;
            if (flags & 0x10) {
                packet->vp8.key_at = (uint8_t)at;
                packet->vp8.key = payload[at] & 0x1F;
            }
            at++;
        }
    }
    return !((payload[0] & 0x17) == 0x10 && at < size && !(payload[at] & 1));
}

/* Open and read the packets that stand one behind the other in the `length` bytes of `datagrams`, of `size` bytes each
 * but for the last, as long as they are straight, of one time, and numbered in turn for the transport; how many.
 *
 * What is not straight by its header is not touched. What turns out so when it has been decrypted is told in `left`. */
uint32_t kernel_receive(struct intake *intake, uintptr_t session, void *datagrams, uint32_t length, uint32_t size) {
    protect_t unprotect = (protect_t)intake->unprotect; /* it looks the same */
    uint32_t count = 0, at = 0;
    intake->left = intake->refused = 0;
    for (; at < length; at += size) {
        uint8_t *data = (uint8_t *)datagrams + at;
        uint32_t bytes = length - at < size ? length - at : size, elements = HEADER_SIZE, payload_at = HEADER_SIZE;
        if (bytes < HEADER_SIZE || (data[0] != ALONE && data[0] != EXTENDED) || (data[1] & 0x7F) != intake->payload_type ||
            get16(data + 2) != ((intake->sequence + count) & 0xFFFF) || get32(data + 8) != intake->ssrc ||
            (data[1] >= 192 && data[1] < 224)) /* RFC 5761, section 4 */
            break;
        if (intake->count == intake->slots || intake->room - intake->used < bytes)
            break;
        if (data[0] == EXTENDED) {
            if (bytes < HEADER_SIZE + 4 || get16(data + HEADER_SIZE) != ONE_BYTE)
                break;
            elements = HEADER_SIZE + 4;
            payload_at = elements + 4 * get16(data + HEADER_SIZE + 2);
            if (payload_at > bytes)
                break;
        }
        struct seen seen = look(intake, data, elements, payload_at);
        if (!count) {
            intake->timestamp = get32(data + 4);
            intake->transport = seen.transport;
            intake->levelled = seen.level >= 0;
            intake->level = (uint8_t)seen.level;
        } else if (get32(data + 4) != intake->timestamp || intake->level_id ||
                   (intake->transport < 0
                        ? seen.transport >= 0
                        : seen.transport != (int32_t)(((uint32_t)intake->transport + count) & 0xFFFF))) {
            break;
        }
        int plain = (int)bytes;
        if (unprotect((void *)session, data, &plain)) {
            intake->refused = 1;
            break;
        }
        struct packet *packet = intake->packets + intake->count;
        memset(packet, 0, sizeof *packet);
        if ((uint32_t)plain <= payload_at ||
            (intake->vp8 && !read_vp8(packet, data + payload_at, (uint32_t)plain - payload_at))) {
            intake->left = (uint32_t)plain;
            break;
        }
        intake->overhead = bytes - (uint32_t)plain;
        packet->at = intake->used;
        packet->elements = (uint16_t)elements;
        packet->payload_at = (uint16_t)payload_at;
        packet->length = (uint16_t)plain;
        packet->marker = data[1] & 0x80;
        memcpy(intake->store + packet->at, data, (uint32_t)plain);
        intake->used += ((uint32_t)plain + LINE - 1) / LINE * LINE;
        intake->count++;
        count++;
        if (packet->marker)
            break;
    }
    return count;
}

/* Make a part of each of `count` packets that were read, from the one numbered `first` on: under the numbers of `form`,
 * and else as `like`, the first of `parts`, has it. 0 if one does not fit, and Python has to see to it. */
int kernel_shape(const struct intake *intake, uint32_t first, uint32_t count, const struct form *form, struct part *parts,
                 char *tails, uint32_t tail_room) {
    struct part like = parts[0];
    for (uint32_t place = 0; place < count; place++) {
        const struct packet *packet = intake->packets + first + place;
        const uint8_t *data = (const uint8_t *)intake->store + packet->at;
        struct part *part = parts + place;
        uint8_t *tail = (uint8_t *)tails + place * tail_room;
        uint32_t at = packet->elements, number, size, used = 4 + form->begins;
        uint32_t octets = packet->length - packet->payload_at;
        *part = like;
        part->index = like.index + place;
        part->frame_at = 0;
        memcpy(tail + 4, form->begin, form->begins);
        if (form->send_time) {
            uint32_t time = (uint32_t)(int64_t)(like.arrival * 262144);
            tail[5] = (uint8_t)(time >> 16);
            put16(tail + 6, time);
        }
        for (; (at = next_element(data, at, packet->payload_at, &number, &size)); at += size) {
            if (!form->numbers[number])
                continue;
            if (used + 1 + size + 3 > tail_room)
                return 0;
            if (number == form->descriptor && size >= 3)
                part->frame_at = (uint16_t)(HEADER_SIZE + used + 2);
            tail[used] = (uint8_t)(form->numbers[number] << 4 | (size - 1));
            memcpy(tail + used + 1, data + at, size);
            used += 1 + size;
        }
        if (used > 4) {
            while (used % 4)
                tail[used++] = 0;
            put16(tail, ONE_BYTE);
            put16(tail + 2, used / 4 - 1);
            part->first = EXTENDED;
        } else {
            used = 0;
            part->first = ALONE;
        }
        if (used + octets > tail_room)
            return 0;
        memcpy(tail + used, data + packet->payload_at, octets);
        part->tail = place * tail_room;
        part->tail_length = used + octets;
        part->octets = octets;
        part->payload_at = (uint16_t)(HEADER_SIZE + used);
        part->transport_at = form->transport ? HEADER_SIZE + 5 : 0;
        part->vp8 = packet->vp8;
        part->marker = packet->marker;
        part->temporal = packet->temporal;
    }
    return 1;
}
