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

records, kernel, feedback = ((HERE / name).read_text() for name in ("records.h", "kernel.c", "feedback.c"))
builder = FFI()
builder.cdef("struct iovec { ...; }; struct mmsghdr { ...; };\n" + records)
builder.cdef("""
    int kernel_forward(void *, struct queue *, struct lane **, uint32_t, const struct burst *, struct stop *,
                       struct stop *, uint32_t *);
    void kernel_arrange(struct queue *, uint32_t *, struct iovec *, uint32_t, uint32_t, int);
    uint32_t kernel_gather(const struct queue *, const uint32_t *, struct iovec *, struct mmsghdr *, char *, uint32_t,
                           uint32_t *, uint32_t, uint32_t, int, uint32_t, size_t);
    int kernel_feedback(const uint8_t *, size_t, struct log *, struct estimate *, double);
    int kernel_feedback_lane(void *, struct feedback_lane *, uint8_t *, int *, double);
""")
builder.set_source(
    "triosfu_kernel",
    INCLUDES + records + kernel + feedback,
    # Python rounds each result of a calculation, so nothing is contracted.
    extra_compile_args=["-O2", "-std=c11", "-Wall", "-Wextra", "-ffp-contract=off"],
)

if __name__ == "__main__":
    builder.compile(verbose=True)
