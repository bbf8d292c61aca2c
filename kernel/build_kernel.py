"""Compiles the kernel into the module `triosfu_kernel` (cffi's API mode); setuptools runs it."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
INCLUDES = """
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
"""

records = (HERE / "records.h").read_text()
loops = "".join((HERE / name).read_text() for name in ("wire.h", "protect.c", "kernel.c", "receive.c", "feedback.c"))
builder = FFI()
builder.cdef("struct iovec { ...; }; struct mmsghdr { ...; };\n" + records)
builder.cdef("""
    void kernel_meet(const struct gcm *, uint32_t, uint64_t);
    int kernel_protect(const struct gcm *, uint8_t *, int);
    int kernel_forward(void *, struct queue *, struct lane **, uint32_t, const struct burst *, struct stop *,
                       struct stop *, uint32_t *);
    void kernel_arrange(struct queue *, uint32_t *, struct iovec *, uint32_t, uint32_t, int);
    uint32_t kernel_receive(struct intake *, uintptr_t, void *, uint32_t, uint32_t);
    int kernel_shape(const struct intake *, uint32_t, uint32_t, const struct form *, struct part *, char *, uint32_t);
    uint32_t kernel_gather(const struct queue *, const uint32_t *, struct iovec *, struct mmsghdr *, char *, uint32_t,
                           uint32_t *, uint32_t, uint32_t, int, uint32_t, size_t);
    int kernel_feedback(const uint8_t *, size_t, struct log *, struct estimate *, double);
    int kernel_feedback_lane(void *, struct feedback_lane *, uint8_t *, int *, double);
""")
builder.set_source(
    "triosfu_kernel",
    INCLUDES + records + loops,
    # Python rounds each result of a calculation, so nothing is contracted.
    extra_compile_args=["-O2", "-std=c11", "-Wall", "-Wextra", "-ffp-contract=off"],
)

if __name__ == "__main__":
    builder.compile(verbose=True)
