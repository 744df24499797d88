/* Runs the test images of an exported folder on a bare Cortex-M in QEMU; see scripts/check_micro.sh.
 *
 * With `-icount shift=0` an instruction takes a nanosecond, which SysTick measures. The runtime is
 * included, so that decoding can be timed alone.
 */
#include "model.h"
#include "squeezenext.c" /* NOLINT */
#include "tests.h"

#define PAINT 0xC5C5C5C5u
#define SYSTICK ((volatile uint32_t *)0xE000E010u) /* control, reload, value */

extern uint32_t stack_limit[], stack_top[], data_from[], data_start[], data_end[];
extern uint32_t bss_start[], bss_end[];

static uint64_t arena[(MODEL_ARENA + 7) / 8];
static int32_t logits[MODEL_CLASSES];
static volatile uint32_t wraps;

void reset(void);
void systick(void);
void fault(void);
int main(void);

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, 0, 0, 0, (void *)fault, (void *)fault, 0, (void *)fault,
    (void *)systick};

static int host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;

    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uint32_t code)
{
    const uint32_t block[2] = {0x20026, code};

    host(0x20, block); /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

static void say(const char *text) { host(0x04, text); }

static void say_number(const char *name, uint64_t value)
{
    char text[24], *p = text + sizeof text;

    *--p = 0;
    *--p = '\n';
    do {
        *--p = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    say(name);
    say(p);
}

void fault(void)
{
    say("fault\n");
    leave(9);
}

void systick(void) { wraps++; }

static uint64_t now(void)
{
    uint32_t before, value;

    do {
        before = wraps;
        value = SYSTICK[2];
    } while (before != wraps);
    return (((uint64_t)before << 24) + (0xFFFFFFu - value)) * 1000 / MEGAHERTZ;
}

static int decode_all(const sqz_network *network)
{
    const uint8_t *codebook = network->codebooks;
    uint32_t i, f;
    stage s;
    run r;

    r.network = network;
    r.arena = (uint8_t *)arena;
    r.state = read32(network->coded);
    r.next = network->coded + 4;
    for (i = 0; i < network->stage_count; i++) {
        read_stage(network, i, &s);
        if (!has_weights(&s)) {
            continue;
        }
        complete(network, &s);
        s.codebook = codebook;
        codebook += codebook_bytes(&s);
        if (!expand_tables(&r, &s)) {
            return 0;
        }
        for (f = 0; f < s.filters; f++) {
            decode_filters(&r, &s, (int8_t *)(r.arena + s.extra), 1);
        }
    }
    return r.state == LEAST_STATE && r.next == network->end;
}

int main(void)
{
    sqz_network network;
    uint32_t i, wrong = 0, *p;
    uint64_t start, opened, frame = 0, decoded;

    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 7;
    for (p = stack_limit; p < (uint32_t *)__builtin_frame_address(0) - 64; p++) {
        *p = PAINT;
    }
    start = now();
    if (sqz_open(&network, model_file, sizeof model_file) != SQZ_OK) {
        leave(2);
    }
    opened = now() - start;
    for (i = 0; i < TEST_IMAGES; i++) {
        memcpy(sqz_pixels(&network, arena), test_pixels[i], sizeof test_pixels[i]);
        start = now();
        if (sqz_run(&network, arena, sizeof arena, logits) != SQZ_OK ||
            memcmp(logits, test_logits[i], sizeof logits) != 0) {
            wrong++;
        }
        frame = now() - start;
    }
    for (p = stack_limit; *p == PAINT; p++) {
    }
    start = now();
    if (!decode_all(&network)) {
        leave(3);
    }
    decoded = now() - start;
    say_number("images: ", TEST_IMAGES);
    say_number("images that differ from predict.py: ", wrong);
    say_number("bytes of the arena: ", MODEL_ARENA);
    say_number("bytes of stack: ", (uint64_t)(stack_top - p) * 4);
    say_number("instructions of opening: ", opened);
    say_number("instructions of a frame: ", frame);
    say_number("instructions of decoding in it: ", decoded);
    leave(wrong != 0);
}

void reset(void)
{
    uint32_t *from = data_from, *to;

    for (to = data_start; to < data_end;) {
        *to++ = *from++;
    }
    for (to = bss_start; to < bss_end;) {
        *to++ = 0;
    }
    main();
}
