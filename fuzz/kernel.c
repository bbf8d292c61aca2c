/* The compiled kernel's readers on random bytes, under AddressSanitizer and UBSan: `make fuzz-kernel SECONDS=60`.
 *
 * What they read is right is another matter, which the checks in `fuzz/checks` compare with Python; here it is only whether
 * they stay within what they were given. Each input is in memory of its own, of exactly its length. */

#define _GNU_SOURCE
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "../kernel/records.h"
#include "../kernel/wire.h"
#include "../kernel/protect.c"
#include "../kernel/kernel.c"
#include "../kernel/receive.c"
#include "../kernel/feedback.c"

#define SLOTS 64
#define STORE (SLOTS * 1536)
#define TAIL_ROOM 1444
#define KEPT 128
#define NUMBERED 1024
#define TAG 16

static uint64_t state = 88172645463325252ull;

static uint32_t any(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16) % below;
}

/* Half of them small: lengths, counts and flags that make sense. */
static uint8_t *bytes(uint32_t length) {
    uint8_t *data = malloc(length);
    for (uint32_t at = 0; at < length; at++)
        data[at] = (uint8_t)(any(2) ? any(256) : any(6));
    return data;
}

static void fail(const char *what) {
    puts(what);
    abort();
}

/* Stands for libsrtp's: takes a tag off, or refuses. */
static int unprotect(void *session, void *packet, int *length) {
    (void)session;
    (void)packet;
    if (*length < HEADER_SIZE + TAG || !any(50))
        return 7;
    *length -= TAG;
    return 0;
}

/* Stand for OpenSSL's: read and write what they are told to. */
static int init(void *context, const void *cipher, void *engine, const uint8_t *key, const uint8_t *nonce) {
    (void)cipher, (void)engine, (void)key;
    memcpy(context, nonce, NONCE_SIZE);
    return 1;
}

static int update(void *context, uint8_t *out, int *written, const uint8_t *in, int length) {
    (void)context;
    *written = length;
    if (length < 0)
        fail("a length is below zero");
    if (out)
        memmove(out, in, (size_t)length);
    else
        free(memcpy(malloc((size_t)length), in, (size_t)length));
    return 1;
}

static int final(void *context, uint8_t *out, int *written) {
    (void)context, (void)out;
    *written = 0;
    return any(50) != 0;
}

static int parameters(void *context, struct parameter *wanted) {
    (void)context;
    memset(wanted->data, 0, wanted->size);
    return 1;
}

static void protect(void) {
    const struct openssl openssl = {(void *)init, (void *)update, (void *)final, (void *)parameters};
    struct stream streams[4] = {{0}};
    uint8_t context[NONCE_SIZE];
    struct gcm gcm = {.openssl = &openssl, .context = context, .streams = streams, .mask = 3, .window = 1024};
    kernel_meet(&gcm, 1, 0);
    kernel_meet(&gcm, 2, (uint64_t)any(1 << 20) << 28);
    for (int turn = 0; turn < 20; turn++) {
        uint32_t length = any(any(2) ? 1500 : 40);
        uint8_t *packet = malloc(length + TAG_SIZE), *head = bytes(length);
        memcpy(packet, head, length);
        if (length >= HEADER_SIZE) {
            put32(packet + 8, 1 + any(3));
            if (length >= HEADER_SIZE + 4 && any(2))
                put16(packet + HEADER_SIZE + 2, any(8));
        }
        int size = kernel_protect(&gcm, packet, (int)length);
        if (size > 0 && size != (int)length + TAG_SIZE)
            fail("a packet has another length than it should");
        free(head);
        free(packet);
    }
}

static void shape(const struct intake *intake, uint32_t first, uint32_t count) {
    struct part *parts = calloc(count, sizeof *parts);
    char *tails = malloc(count * TAIL_ROOM);
    struct form form = {.begins = (uint8_t)any(17), .descriptor = (uint8_t)any(16)};
    for (uint32_t at = 0; at < sizeof form.numbers; at++)
        form.numbers[at] = (uint8_t)(any(2) ? any(15) : 0);
    form.send_time = form.begins >= 4 && any(2);
    form.transport = form.begins >= 3 && !form.send_time;
    parts[0].arrival = any(1000000) / 7.0;
    if (kernel_shape(intake, first, count, &form, parts, tails, TAIL_ROOM))
        for (uint32_t place = 0; place < count; place++)
            if (parts[place].tail_length > TAIL_ROOM)
                fail("a tail is longer than its room");
    free(tails);
    free(parts);
}

static void receive(void) {
    struct intake intake = {.unprotect = (void *)unprotect, .room = STORE, .slots = SLOTS};
    intake.store = malloc(STORE);
    intake.packets = malloc(SLOTS * sizeof *intake.packets);
    for (int turn = 0; turn < 20; turn++) {
        intake.ssrc = any(3);
        intake.sequence = (uint16_t)any(1 << 16);
        intake.payload_type = 96;
        intake.vp8 = (uint8_t)any(2);
        intake.transport_id = (uint8_t)any(16);
        intake.level_id = (uint8_t)(any(4) ? 0 : any(15));
        uint32_t size = HEADER_SIZE + any(any(2) ? 1500 : 80), length = size * (1 + any(8)) - any(size);
        uint8_t *data = bytes(length);
        for (uint32_t at = 0; at + HEADER_SIZE <= length; at += size) {
            data[at] = any(2) ? ALONE : EXTENDED;
            data[at + 1] = (uint8_t)(96 | (any(8) ? 0 : 0x80));
            put16(data + at + 2, intake.sequence + at / size);
            put32(data + at + 4, 0);
            put32(data + at + 8, intake.ssrc);
            if (data[at] == EXTENDED && at + HEADER_SIZE + 4 <= length) {
                put16(data + at + HEADER_SIZE, ONE_BYTE);
                put16(data + at + HEADER_SIZE + 2, any(any(4) ? 6 : 256));
            }
        }
        uint32_t first = intake.count, count = kernel_receive(&intake, 1, data, length, size);
        if (intake.count > SLOTS || intake.used > STORE)
            fail("more is kept than there is room for");
        if (count)
            shape(&intake, first, count);
        free(data);
    }
    free(intake.packets);
    free(intake.store);
}

static void feedback(void) {
    double at[NUMBERED];
    uint32_t sizes[NUMBERED], next = any(1 << 16);
    for (uint32_t slot = 0; slot < NUMBERED; slot++) {
        at[slot] = slot / 100.0;
        sizes[slot] = any(4) ? any(1500) : 0;
    }
    struct log log = {at, sizes, &next, NUMBERED - 1};
    struct estimates numbers = {NAN, 0, 0, NAN, 0};
    struct places places = {0, 0};
    struct estimate estimate = {&numbers, &places, malloc(KEPT * sizeof(struct share)), KEPT};
    for (int turn = 0; turn < 4; turn++) {
        uint32_t words = 5 + any(any(8) ? 20 : 400), length = 4 * words, covered = any(3) ? any(200) : any(1 << 16);
        uint8_t *data = bytes(length);
        data[0] = 0x8F;
        data[1] = 205;
        put16(data + 2, words - 1);
        put16(data + 12, next - any(200));
        put16(data + 14, covered);
        if (length > FEEDBACK_CHUNKS && any(2))
            put16(data + FEEDBACK_CHUNKS, (1 + any(2)) << 13 | (covered < 0x1FFF ? covered : 0x1FFF));
        kernel_feedback(data, length - (any(16) ? 0 : any(4)), &log, &estimate, 1.0);
        if (places.count > KEPT || places.first >= KEPT)
            fail("more shares are kept than there is room for");
        free(data);
    }
    free(estimate.shares);
}

int main(int count, char **arguments) {
    time_t end = time(NULL) + (count > 1 ? atoi(arguments[1]) : 10);
    uint64_t rounds = 0;
    for (; time(NULL) < end; rounds++) {
        receive();
        feedback();
        protect();
    }
    printf("%llu rounds of 20 runs, 4 pieces of feedback and 20 packets to protect, without a finding\n", (unsigned long long)rounds);
}
