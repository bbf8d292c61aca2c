/* SRTP for what is sent, where the cipher is AES-GCM (RFC 7714): what libsrtp does for it, with the same functions of
 * OpenSSL, but without looking for the packet's stream in a list and for its number in a window, which a sender does not need.
 */

#define UNKNOWN (-1) /* stream, which Python has to add */
#define OLD (-2)
#define REFUSED 0
#define TAG_SIZE 16
#define NONCE_SIZE 12
#define MEDIAN 0x8000
#define OCTETS 5 /* OSSL_PARAM_OCTET_STRING */

typedef int (*init_t)(void *context, const void *cipher, void *engine, const uint8_t *key, const uint8_t *nonce);
typedef int (*update_t)(void *context, uint8_t *out, int *written, const uint8_t *in, int length);
typedef int (*final_t)(void *context, uint8_t *out, int *written);

struct parameter { /* OSSL_PARAM */
    const char *key;
    unsigned int type;
    void *data;
    size_t size;
    size_t written;
};
typedef int (*parameters_t)(void *context, struct parameter *parameters);

/* Where in a table the stream with this SSRC is looked for first; its size is still to be applied. */
static uint32_t place_of(uint32_t ssrc) { return ssrc * 2654435761u >> 16; }

/* The stream with this SSRC, or null. The table is at most half full. */
static struct stream *stream_of(const struct gcm *gcm, uint32_t ssrc) {
    for (uint32_t at = place_of(ssrc);; at++) {
        struct stream *stream = gcm->streams + (at & gcm->mask);
        if (!stream->met)
            return NULL;
        if (stream->ssrc == ssrc)
            return stream;
    }
}

/* Add a stream, whose SSRC is not there yet, to a table that has room. */
void kernel_meet(const struct gcm *gcm, uint32_t ssrc, uint64_t index) {
    uint32_t at = place_of(ssrc);
    while (gcm->streams[at & gcm->mask].met)
        at++;
    gcm->streams[at & gcm->mask] = (struct stream){index, ssrc, 1};
}

/* How far a packet numbered `sequence` is ahead of the highest one of its stream (RFC 3711, section 3.3.1). As libsrtp
 * has it, no number is from before the first one until half of them have passed. */
static int64_t ahead(uint64_t highest, uint32_t sequence) {
    int64_t distance = (int64_t)sequence - (int64_t)(highest & 0xFFFF);
    if (highest > MEDIAN) {
        if (distance > MEDIAN)
            distance -= 0x10000;
        else if (distance < -MEDIAN)
            distance += 0x10000;
    }
    return distance;
}

/* Protect the packet of `length` bytes whose payload begins at `payload_at`: its length then, or why it was not. */
static int protect_gcm(const struct gcm *gcm, struct stream *stream, uint8_t *packet, uint32_t payload_at, int length) {
    int64_t distance = ahead(stream->index, get16(packet + 2));
    if (distance <= -(int64_t)gcm->window)
        return OLD;
    uint64_t index = stream->index + (uint64_t)distance;
    if (index >> 48) /* no nonce is left under this key */
        return REFUSED;
    uint8_t nonce[NONCE_SIZE] = {0};
    memcpy(nonce + 2, packet + 8, 4);
    for (int at = 0; at < 6; at++)
        nonce[6 + at] = (uint8_t)(index >> (40 - 8 * at));
    for (int at = 0; at < NONCE_SIZE; at++)
        nonce[at] ^= gcm->salt[at];
    const struct openssl *openssl = gcm->openssl;
    update_t update = (update_t)openssl->update;
    uint8_t *payload = packet + payload_at, *tag = packet + length;
    struct parameter parameters[] = {{"tag", OCTETS, tag, TAG_SIZE, 0}, {NULL, 0, NULL, 0, 0}};
    int size = length - (int)payload_at, written;
    if (((init_t)openssl->init)(gcm->context, NULL, NULL, NULL, nonce) != 1 ||
        update(gcm->context, NULL, &written, packet, (int)payload_at) != 1 ||
        (size && (update(gcm->context, payload, &written, payload, size) != 1 || written != size)) ||
        ((final_t)openssl->final)(gcm->context, tag, &written) != 1 ||
        ((parameters_t)openssl->parameters)(gcm->context, parameters) != 1)
        return REFUSED;
    if (distance > 0)
        stream->index = index;
    return length + TAG_SIZE;
}

/* Protect a packet of `length` bytes, with room for the tag behind them: its length then, or why it was not. */
int kernel_protect(const struct gcm *gcm, uint8_t *packet, int length) {
    if (length < HEADER_SIZE)
        return REFUSED;
    uint32_t payload_at = HEADER_SIZE + 4 * (packet[0] & 15u);
    if (packet[0] & 16) {
        if (length < (int)payload_at + 4)
            return REFUSED;
        payload_at += 4 + 4 * get16(packet + payload_at + 2);
    }
    if (length < (int)payload_at)
        return REFUSED;
    struct stream *stream = stream_of(gcm, get32(packet + 8));
    return stream ? protect_gcm(gcm, stream, packet, payload_at, length) : UNKNOWN;
}
