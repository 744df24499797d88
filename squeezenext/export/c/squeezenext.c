/* See squeezenext.h. docs/micro.md describes the file and the arithmetic. */
#include "squeezenext.h"

#include <float.h>
#include <limits.h>
#include <string.h>

#if INT_MAX < 0x7FFFFFFF
#error "squeezenext.c needs an int of 32 bits; boards such as Arduino Uno have 16."
#endif

enum { HEAD = 24, PLAN = 24, BUFFER = 20, STAGE = 44 };  /* bytes */
enum { CONV, MAX_POOL, ADD, LAST_CONV, LAST_DENSE };     /* kinds of stages */
enum { RELU = 1, END = 2 };                              /* flags of a stage; END: of its group */
enum { MAX_STAGES = 8, MAX_FILTER = 50000, MAX_SIDE = 4096, MAX_STEP = 8 };
enum { MAX_AREA = 1 << 23 }; /* positions of a map, so that their sum has 31 bits */
enum { TOTAL_BITS = 12, TOTAL = 1 << TOTAL_BITS, LEAST_STATE = 1 << 16 }; /* of the coder */

typedef struct {
    uint32_t offset;
    uint16_t height, width, channels, rows; /* `rows` of them are kept, as a ring */
    uint8_t zero;
} buffer;

typedef struct {
    uint8_t kind, kernel_height, kernel_width, stride, top, left, flags, shift;
    uint16_t source, second, target, channel, filters, groups, block;
    uint8_t bias_shift, values, tables, step;
    uint32_t multiplier, extra; /* extra: the weights' place; of an ADD the second multiplier */
    uint32_t scratch, patch;
    buffer in, out;
    const uint8_t *codebook, *bias;
    uint32_t inputs, length; /* channels that a filter reads, its weights */
    uint32_t next;           /* the next row to compute */
} stage;

typedef struct {
    const sqz_network *network;
    uint8_t *arena;
    const uint8_t *next; /* of the coded words */
    uint32_t state;      /* of the decoder */
} run;

static uint16_t read16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static uint32_t read32(const uint8_t *p) { return read16(p) | (uint32_t)read16(p + 2) << 16; }

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* ---- Reading and checking the file ---- */

static uint32_t crc32(const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;
    int half;
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};

    for (i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (half = 0; half < 2; half++) {
            crc = crc >> 4 ^ table[crc & 15];
        }
    }
    return ~crc;
}

static void read_buffer(const sqz_network *network, uint16_t index, buffer *found)
{
    const uint8_t *p = network->buffers + (size_t)index * BUFFER;

    found->offset = read32(p);
    found->height = read16(p + 4);
    found->width = read16(p + 6);
    found->channels = read16(p + 8);
    found->rows = read16(p + 10);
    found->zero = p[16];
}

/* Reads a stage, but for the buffers that it names. */
static void read_stage(const sqz_network *network, uint32_t index, stage *s)
{
    const uint8_t *p = network->stages + (size_t)index * STAGE;

    s->kind = p[0];
    s->kernel_height = p[1];
    s->kernel_width = p[2];
    s->stride = p[3];
    s->top = p[4];
    s->left = p[5];
    s->flags = p[6];
    s->shift = p[7];
    s->source = read16(p + 8);
    s->second = read16(p + 10);
    s->target = read16(p + 12);
    s->channel = read16(p + 14);
    s->filters = read16(p + 16);
    s->groups = read16(p + 18);
    s->block = read16(p + 20);
    s->bias_shift = p[22];
    s->values = p[23];
    s->tables = p[24];
    s->step = p[25];
    s->multiplier = read32(p + 28);
    s->extra = read32(p + 32);
    s->scratch = read32(p + 36);
    s->patch = read32(p + 40);
    s->next = 0;
}

static int has_weights(const stage *s)
{
    return s->kind == CONV || s->kind == LAST_CONV || s->kind == LAST_DENSE;
}

/* Reads the buffers of a stage and what follows from them. */
static void complete(const sqz_network *network, stage *s)
{
    read_buffer(network, s->source, &s->in);
    read_buffer(network, s->target, &s->out);
    s->inputs = has_weights(s) ? s->in.channels / (uint32_t)s->groups : s->in.channels;
    s->length = s->inputs * s->kernel_height * s->kernel_width;
}

/* Bytes of a layer's values and tables in the file. */
static uint32_t codebook_bytes(const stage *s)
{
    return s->values + s->tables * (s->values - 1u);
}

static int fits(const sqz_network *network, uint32_t offset, uint64_t bytes)
{
    return offset + bytes <= network->arena_bytes;
}

static int apart(uint32_t a, uint64_t a_bytes, uint32_t b, uint64_t b_bytes)
{
    return a + a_bytes <= b || b + b_bytes <= a;
}

static int good_buffer(const sqz_network *network, uint16_t index)
{
    buffer b;

    read_buffer(network, index, &b);
    return b.height >= 1 && b.height <= MAX_SIDE && b.width >= 1 && b.width <= MAX_SIDE &&
           b.channels >= 1 && b.rows >= 1 && b.rows <= b.height &&
           fits(network, b.offset, (uint64_t)b.rows * b.width * b.channels);
}

/* Says whether the weights of a stage, and what decoding needs, lie inside the arena, and whether
 * nothing is written over what decoding counts. */
static int good_weights(const sqz_network *network, const stage *s, int alone)
{
    uint64_t scratch, weights, patch, in, out;
    uint32_t per_group;

    if (s->groups < 1 || s->filters < 1 || s->filters % s->groups || s->in.channels % s->groups) {
        return 0;
    }
    per_group = s->filters / (uint32_t)s->groups;
    scratch = (uint64_t)s->tables * s->values * sizeof(uint16_t);
    weights = (uint64_t)(alone ? s->block : s->filters) * s->length;
    patch = s->kind == LAST_DENSE ? 4u * (uint64_t)s->length : s->length;
    in = (uint64_t)s->in.rows * s->in.width * s->in.channels;
    out = (uint64_t)s->out.rows * s->out.width * s->out.channels;
    return s->length <= MAX_FILTER && s->block >= 1 && s->block <= per_group &&
           s->values >= 1 && s->tables >= 1 && s->step <= MAX_STEP && s->bias_shift <= 13 &&
           s->multiplier >= 1 && s->multiplier <= 0x7FFFFFFF && s->shift >= 1 && s->shift <= 53 &&
           s->scratch % 8 == 0 && s->patch % 8 == 0 &&
           fits(network, s->extra, weights) && fits(network, s->scratch, scratch) &&
           fits(network, s->patch, patch) && apart(s->scratch, scratch, s->extra, weights) &&
           apart(s->patch, patch, s->in.offset, in) &&
           (!alone || (apart(s->scratch, scratch, s->patch, patch) &&
                       apart(s->scratch, scratch, s->out.offset, out)));
}

static int good_stage(const sqz_network *network, stage *s, int alone, int last)
{
    buffer second;
    int same, inside;

    if (s->source >= network->buffer_count || s->second >= network->buffer_count ||
        s->target >= network->buffer_count || s->kind > LAST_DENSE || s->groups < 1 ||
        s->stride < 1 || s->kernel_height < 1 || s->kernel_width < 1 ||
        last != (s->kind >= LAST_CONV)) {
        return 0;
    }
    complete(network, s);
    read_buffer(network, s->second, &second);
    same = s->in.width == s->out.width && s->in.height == s->out.height &&
           s->in.channels == s->out.channels;
    inside = (s->out.height - 1u) * s->stride < (uint32_t)s->in.height + s->top &&
             (s->out.width - 1u) * s->stride < (uint32_t)s->in.width + s->left;
    switch (s->kind) {
    case MAX_POOL:
        return inside && s->top == 0 && s->left == 0 && s->in.channels == s->out.channels;
    case ADD:
        return same && second.width == s->out.width && second.height == s->out.height &&
               second.channels == s->out.channels && s->shift >= 1 && s->shift <= 20 &&
               s->multiplier < 1u << 21 && s->extra < 1u << 21 && s->kernel_height == 1 &&
               s->stride == 1 && s->top == 0;
    case CONV:
        return inside && good_weights(network, s, alone) &&
               (uint32_t)s->channel + s->filters <= s->out.channels;
    default: /* the classifier: one by one, over whole maps */
        return (uint32_t)s->in.height * s->in.width <= MAX_AREA &&
               good_weights(network, s, alone) && alone && s->filters == network->classes &&
               s->kernel_height == 1 && s->kernel_width == 1 && s->groups == 1 &&
               s->stride == 1 && s->in.rows == s->in.height && s->top <= 15;
    }
}

static sqz_status check_plan(sqz_network *network, const uint8_t *end)
{
    uint32_t i, group = 0;
    uint64_t codes = 0, biases = 0; /* in 32 bits, 65,535 stages could pass the end of the file */
    stage s;
    buffer image;

    for (i = 0; i < network->buffer_count; i++) {
        if (!good_buffer(network, (uint16_t)i)) {
            return SQZ_DAMAGED;
        }
    }
    read_buffer(network, 0, &image);
    if (image.height != image.width || image.channels != 3 || image.rows != image.height) {
        return SQZ_DAMAGED;
    }
    network->size = image.height;
    network->image = image.offset;
    for (i = 0; i < network->stage_count; i++) {
        int last = i + 1 == network->stage_count, alone;

        read_stage(network, i, &s);
        alone = group == 0 && (s.flags & END);
        group = s.flags & END ? 0 : group + 1;
        if (group >= MAX_STAGES || (last && group) || !good_stage(network, &s, alone, last)) {
            return SQZ_DAMAGED;
        }
        if (has_weights(&s)) {
            codes += codebook_bytes(&s);
            biases += 2u * (uint64_t)s.filters;
        }
    }
    network->codebooks = network->stages + (size_t)network->stage_count * STAGE;
    if ((uint64_t)(end - network->codebooks) < codes + biases + 4) {
        return SQZ_DAMAGED;
    }
    network->biases = network->codebooks + (size_t)codes;
    network->coded = network->biases + (size_t)biases;
    network->end = end;
    return (end - network->coded) % 2 == 0 ? SQZ_OK : SQZ_DAMAGED;
}

static sqz_status read_network(sqz_network *network, const void *file, size_t bytes)
{
    static const uint8_t magic[8] = {0x89, 'S', 'Q', 'Z', '\r', '\n', 0x1A, '\n'};
    const uint8_t *data = (const uint8_t *)file, *plan;
    uint32_t header, streams;

    if (bytes < HEAD || memcmp(data, magic, sizeof magic) != 0) {
        return SQZ_NO_FILE;
    }
    if (read16(data + 8) != 3 || data[10] != 2 || data[11] != 1) {
        return SQZ_VERSION;
    }
    header = read32(data + 12);
    streams = read32(data + 16);
    if ((uint64_t)bytes != 24 + (uint64_t)header + streams || streams < PLAN) {
        return SQZ_CUT;
    }
    if (crc32(data, bytes - 4) != read32(data + bytes - 4)) {
        return SQZ_CHECKSUM;
    }
    plan = data + 20 + header;
    network->arena_bytes = read32(plan);
    network->buffer_count = read16(plan + 4);
    network->stage_count = read16(plan + 6);
    network->classes = read16(plan + 10);
    memcpy(&network->logit_scale, plan + 12, 4); /* little-endian, as these processors are */
    network->shift = plan[16];
    memcpy(network->border, plan + 17, 3);
    if (network->buffer_count < 1 || network->stage_count < 1 || network->shift > 40 ||
        !(network->logit_scale > 0.0f && network->logit_scale <= FLT_MAX) ||
        streams < PLAN + network->buffer_count * (uint32_t)BUFFER +
                      network->stage_count * (uint32_t)STAGE) {
        return SQZ_DAMAGED;
    }
    network->buffers = plan + PLAN;
    network->stages = network->buffers + (size_t)network->buffer_count * BUFFER;
    return check_plan(network, plan + streams);
}

sqz_status sqz_open(sqz_network *network, const void *file, size_t bytes)
{
    sqz_status status;

    memset(network, 0, sizeof *network);
    status = read_network(network, file, bytes);
    if (status != SQZ_OK) { /* `sqz_run` must not follow what was not checked */
        memset(network, 0, sizeof *network);
    }
    return status;
}

/* ---- Decoding weights ---- */

/* Returns the share of a value, in 4096ths: four bits of exponent and four below a leading one. */
static uint32_t share(uint8_t code)
{
    uint32_t exponent = code >> 4, rest = code & 15u;

    return exponent ? (16 + rest) << (exponent - 1) : rest;
}

/* Writes where each value's part of 0..4095 ends, table by table; the first has what the others
 * leave. Returns 0 if they leave nothing. */
static int expand_tables(const run *r, const stage *s)
{
    uint16_t *ends = (uint16_t *)(void *)(r->arena + s->scratch);
    const uint8_t *codes = s->codebook + s->values;
    uint32_t table, i, end;

    for (table = 0; table < s->tables; table++, codes += s->values - 1) {
        end = TOTAL;
        for (i = 1; i < s->values; i++) {
            end -= least(end, share(codes[i - 1]));
        }
        if (end == 0) {
            return 0;
        }
        *ends++ = (uint16_t)end;
        for (i = 1; i < s->values; i++) {
            end += share(codes[i - 1]);
            *ends++ = (uint16_t)end;
        }
    }
    return 1;
}

/* Decodes a value (rANS); `ends` is its table. */
static int8_t decode(run *r, const stage *s, const uint16_t *ends)
{
    uint32_t slot = r->state & (TOTAL - 1), start = 0, i = 0;

    while (slot >= ends[i]) {
        start = ends[i++];
    }
    r->state = (ends[i] - start) * (r->state >> TOTAL_BITS) + slot - start;
    if (r->state < LEAST_STATE) {
        r->state <<= 16;
        if (r->next < r->network->end) {
            r->state |= read16(r->next);
            r->next += 2;
        }
    }
    return (int8_t)s->codebook[i];
}

/* Decodes the weights of some filters, [filter][plane][input]. The table of a weight depends on
 * those to the left and above in its filter: on 2 left + 2 above - the one above the left one. */
static void decode_filters(run *r, const stage *s, int8_t *weight, uint32_t filters)
{
    const uint16_t *tables = (const uint16_t *)(const void *)(r->arena + s->scratch);
    ptrdiff_t wide = s->kernel_width, left = (ptrdiff_t)s->inputs, above = left * wide;
    int32_t planes = s->kernel_height * s->kernel_width, half = s->tables << s->step >> 1, plane;
    uint32_t f, c;

    for (f = 0; f < filters; f++) {
        for (plane = 0; plane < planes; plane++) {
            int beside = plane % wide != 0, under = plane >= wide;

            for (c = 0; c < s->inputs; c++, weight++) {
                int32_t expected = half;

                expected += beside ? 2 * weight[-left] : 0;
                expected += under ? 2 * weight[-above] : 0;
                expected -= beside && under ? weight[-above - left] : 0;
                expected = expected < 0 ? 0 : expected >> s->step;
                expected = expected < s->tables ? expected : s->tables - 1;
                *weight = decode(r, s, tables + (size_t)expected * s->values);
            }
        }
    }
}

/* ---- Computing ---- */

static uint8_t *row_of(const run *r, const buffer *b, uint32_t row)
{
    return r->arena + b->offset + (size_t)(row % b->rows) * b->width * b->channels;
}

static int32_t dot(const uint8_t *inputs, const int8_t *weights, uint32_t count)
{
    int32_t a = 0, b = 0;
    uint32_t i;

    for (i = 0; i + 4 <= count; i += 4) {
        a += inputs[i] * weights[i] + inputs[i + 1] * weights[i + 1];
        b += inputs[i + 2] * weights[i + 2] + inputs[i + 3] * weights[i + 3];
    }
    for (; i < count; i++) {
        a += inputs[i] * weights[i];
    }
    return a + b;
}

static int32_t bias_of(const stage *s, uint32_t filter)
{
    int32_t stored = read16(s->bias + 2 * (size_t)filter);

    return (stored - (stored >= 32768 ? 65536 : 0)) * (1 << s->bias_shift);
}

/* Returns sum x multiplier / 2^shift, rounded, plus the zero point, within 0..255. */
static uint8_t rescaled(const stage *s, int64_t product)
{
    int64_t value = product + (int64_t)((uint64_t)(2u * s->out.zero + 1u) << (s->shift - 1));
    uint64_t found = value < 0 ? 0 : (uint64_t)value >> s->shift;
    uint8_t low = s->flags & RELU ? s->out.zero : 0;

    found = found > 255 ? 255 : found;
    return found < low ? low : (uint8_t)found;
}

/* Copies what a filter sees at a position to the patch; returns it, or the place itself. */
static const uint8_t *patch_at(const run *r, const stage *s, uint32_t y, uint32_t x, uint32_t from)
{
    uint8_t *patch = r->arena + s->patch, *to = patch;
    int32_t row = (int32_t)(y * s->stride) - s->top, left = (int32_t)(x * s->stride) - s->left;
    int32_t i, j;
    uint32_t c;

    if (s->kernel_height == 1 && s->kernel_width == 1 && s->top == 0 && s->left == 0) {
        return row_of(r, &s->in, (uint32_t)row) + (size_t)left * s->in.channels + from;
    }
    for (i = row; i < row + s->kernel_height; i++) {
        for (j = left; j < left + s->kernel_width; j++, to += s->inputs) {
            if (i >= 0 && i < s->in.height && j >= 0 && j < s->in.width) {
                const uint8_t *line = row_of(r, &s->in, (uint32_t)i);
                memcpy(to, line + (size_t)j * s->in.channels + from, s->inputs);
            } else if (s->source == 0) {
                for (c = 0; c < s->inputs; c++) {
                    to[c] = r->network->border[(from + c) % 3];
                }
            } else {
                memset(to, s->in.zero, s->inputs);
            }
        }
    }
    return patch;
}

/* Computes filters `first` to `last` of row `y`; their weights lie one after the other. */
static void conv_row(const run *r, const stage *s, uint32_t y, uint32_t first, uint32_t last)
{
    const int8_t *weights = (const int8_t *)(r->arena + s->extra);
    uint32_t per_group = s->filters / (uint32_t)s->groups, x, f, end;

    for (x = 0; x < s->out.width; x++) {
        uint8_t *out = row_of(r, &s->out, y) + (size_t)x * s->out.channels + s->channel;

        for (f = first; f < last; f = end) {
            uint32_t group = f / per_group;
            const uint8_t *patch = patch_at(r, s, y, x, group * s->inputs);

            end = least(last, (group + 1) * per_group);
            for (; f < end; f++) {
                int32_t sum = dot(patch, weights + (size_t)(f - first) * s->length, s->length);

                out[f] = rescaled(s, (int64_t)(sum + bias_of(s, f)) * (int32_t)s->multiplier);
            }
        }
    }
}

static void pool_row(const run *r, const stage *s, uint32_t y)
{
    uint32_t width = s->in.width, x, c, i, j, channels = s->in.channels;
    uint32_t bottom = least(y * s->stride + s->kernel_height, s->in.height);

    for (x = 0; x < s->out.width; x++) {
        uint8_t *out = row_of(r, &s->out, y) + (size_t)x * channels;
        uint32_t right = least(x * s->stride + s->kernel_width, width);

        memset(out, 0, channels);
        for (i = y * s->stride; i < bottom; i++) {
            for (j = x * s->stride; j < right; j++) {
                const uint8_t *in = row_of(r, &s->in, i) + (size_t)j * channels;

                for (c = 0; c < channels; c++) {
                    out[c] = in[c] > out[c] ? in[c] : out[c];
                }
            }
        }
    }
}

static void add_row(const run *r, const stage *s, uint32_t y)
{
    buffer second;
    const uint8_t *a, *b;
    uint8_t *out = row_of(r, &s->out, y);
    uint32_t i;

    read_buffer(r->network, s->second, &second);
    a = row_of(r, &s->in, y);
    b = row_of(r, &second, y);
    for (i = 0; i < (uint32_t)s->out.width * s->out.channels; i++) {
        int32_t sum = (a[i] - s->in.zero) * (int32_t)s->multiplier;

        out[i] = rescaled(s, sum + (b[i] - second.zero) * (int32_t)s->extra);
    }
}

static int reads(const stage *s, uint16_t source)
{
    return s->source == source || (s->kind == ADD && s->second == source);
}

/* Says whether the next row of stage k can be computed: its inputs are there, and room for it. */
static int ready(const stage *group, uint32_t count, uint32_t k)
{
    const stage *s = group + k;
    int32_t last = (int32_t)(s->next * s->stride) - s->top + s->kernel_height - 1;
    uint32_t j;

    if (s->next == s->out.height) {
        return 0;
    }
    last = last < s->in.height ? last : s->in.height - 1;
    for (j = 0; j < count; j++) {
        const stage *other = group + j;

        if (reads(s, other->target) && j != k && (int32_t)other->next <= last) {
            return 0;
        }
        if (reads(other, s->target) && other->next < other->out.height && s->next >= s->out.rows) {
            int32_t needed = (int32_t)(other->next * other->stride) - other->top;

            if ((int32_t)(s->next - s->out.rows) >= needed) {
                return 0;
            }
        }
    }
    return 1;
}

/* Computes all rows of a group's stages; of its convolutions filters `first` to `last`. */
static int run_rows(const run *r, stage *group, uint32_t count, uint32_t first, uint32_t last)
{
    uint32_t k, left = 0;
    int moved = 1;

    for (k = 0; k < count; k++) {
        group[k].next = 0;
        left += group[k].out.height;
    }
    while (moved) {
        moved = 0;
        for (k = 0; k < count; k++) {
            stage *s = group + k;

            if (!ready(group, count, k)) {
                continue;
            }
            if (s->kind == CONV) {
                conv_row(r, s, s->next, first, least(last, s->filters));
            } else if (s->kind == MAX_POOL) {
                pool_row(r, s, s->next);
            } else {
                add_row(r, s, s->next);
            }
            s->next++;
            left--;
            moved = 1;
        }
    }
    return left == 0;
}

static int32_t logit_of(const run *r, int64_t total)
{
    int64_t size = (total < 0 ? -total : total) >> r->network->shift;

    size = size > 0x7FFFFFFF ? 0x7FFFFFFF : size;
    return (int32_t)(total < 0 ? -size : size);
}

/* The logits of a convolution with a mean over all positions after it. */
static int32_t conv_logit(const run *r, const stage *s, const int8_t *weights, uint32_t filter)
{
    uint32_t y, x, padded = ((uint32_t)s->in.height + 2u * s->top) * (s->in.width + 2u * s->left);
    int32_t bias = bias_of(s, filter), sum = bias;
    int64_t total;

    for (x = 0; x < s->length; x++) {
        sum += s->in.zero * weights[x];
    }
    sum = sum < 0 && s->flags & RELU ? 0 : sum;
    total = (int64_t)sum * (padded - (uint32_t)s->in.height * s->in.width);
    for (y = 0; y < s->in.height; y++) {
        for (x = 0; x < s->in.width; x++) {
            const uint8_t *in = row_of(r, &s->in, y) + (size_t)x * s->in.channels;

            sum = bias + dot(in, weights, s->length);
            total += sum < 0 && s->flags & RELU ? 0 : sum;
        }
    }
    return logit_of(r, total);
}

/* Sums each channel over all positions. */
static void sum_map(const run *r, const stage *s)
{
    int32_t *sums = (int32_t *)(void *)(r->arena + s->patch);
    uint32_t area = (uint32_t)s->in.height * s->in.width, i, c;
    const uint8_t *in = row_of(r, &s->in, 0);

    memset(sums, 0, s->length * sizeof *sums);
    for (i = 0; i < area; i++) {
        for (c = 0; c < s->length; c++) {
            sums[c] += *in++ - s->in.zero;
        }
    }
}

static int32_t dense_logit(const run *r, const stage *s, const int8_t *weights, uint32_t filter)
{
    const int32_t *sums = (const int32_t *)(const void *)(r->arena + s->patch);
    int64_t total = bias_of(s, filter);
    uint32_t c;

    for (c = 0; c < s->length; c++) {
        total += (int64_t)sums[c] * weights[c];
    }
    return logit_of(r, total);
}

/* Computes with a block of filters, the weights of which were just decoded. */
static int run_block(const run *r, stage *s, uint32_t first, uint32_t last, int32_t *logits)
{
    const int8_t *weights = (const int8_t *)(r->arena + s->extra);
    uint32_t f;

    if (s->kind == CONV) {
        return run_rows(r, s, 1, first, last);
    }
    for (f = first; f < last; f++, weights += s->length) {
        logits[f] = (s->kind == LAST_CONV ? conv_logit : dense_logit)(r, s, weights, f);
    }
    return 1;
}

/* Decodes a stage's weights, block by block; a stage alone computes after each. */
static int run_weights(run *r, stage *s, int alone, int32_t *logits)
{
    uint32_t per_group = s->filters / (uint32_t)s->groups, f, last;

    if (!expand_tables(r, s)) {
        return 0;
    }
    for (f = 0; f < s->filters; f = last) {
        int8_t *weights = (int8_t *)(r->arena + s->extra) + (alone ? 0 : (size_t)f * s->length);

        last = least(f + s->block, (f / per_group + 1) * per_group);
        decode_filters(r, s, weights, last - f);
        if (alone && !run_block(r, s, f, last, logits)) {
            return 0;
        }
    }
    return 1;
}

uint8_t *sqz_pixels(const sqz_network *network, void *arena)
{
    return (uint8_t *)arena + network->image;
}

sqz_status sqz_run(const sqz_network *network, void *arena, size_t bytes, int32_t *logits)
{
    const uint8_t *codebook = network->codebooks, *bias = network->biases;
    uint32_t i, k, count;
    stage group[MAX_STAGES];
    run r;

    if (network->stage_count == 0) {
        return SQZ_NO_FILE;
    }
    if (bytes < network->arena_bytes || (uintptr_t)arena % 8) {
        return SQZ_ARENA;
    }
    r.network = network;
    r.arena = (uint8_t *)arena;
    r.state = read32(network->coded);
    r.next = network->coded + 4;
    for (i = 0; i < network->stage_count; i += count) {
        int alone;

        count = 0;
        do {
            stage *s = group + count;

            read_stage(network, i + count, s);
            complete(network, s);
            s->codebook = codebook;
            s->bias = bias;
            if (has_weights(s)) {
                codebook += codebook_bytes(s);
                bias += 2 * (size_t)s->filters;
            }
        } while (!(group[count++].flags & END));
        alone = count == 1;
        for (k = 0; k < count; k++) {
            if (group[k].kind == LAST_DENSE) {
                sum_map(&r, group + k);
            }
            if (has_weights(group + k) && !run_weights(&r, group + k, alone, logits)) {
                return SQZ_DAMAGED;
            }
        }
        if (!(alone && has_weights(group)) && !run_rows(&r, group, count, 0, 0xFFFF)) {
            return SQZ_DAMAGED;
        }
    }
    return r.state == LEAST_STATE && r.next == network->end ? SQZ_OK : SQZ_DAMAGED;
}

uint16_t sqz_best(const int32_t *logits, uint16_t classes)
{
    uint16_t best = 0, i;

    for (i = 1; i < classes; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}
