/* fuzz FILE.sqz PIXELS CASES SEED: damages the file in memory, reads and runs it.
 *
 * Every second case gets the right checksum for its damaged bytes, as a forger would; without that
 * none may pass as whole. A file that passes must give the logits of the undamaged one, or have a
 * right checksum. Prints how many cases gave each status.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "content.h"
#include "squeezenext.h"

static uint32_t state;

static uint32_t number(uint32_t below)
{
    state ^= state << 13; /* xorshift */
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

static void seal(uint8_t *data, size_t bytes)
{
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;
    int bit;

    for (i = 0; i < bytes - 4; i++) {
        crc ^= data[i];
        for (bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        }
    }
    for (i = 0; i < 4; i++) {
        data[bytes - 4 + i] = (uint8_t)(~crc >> 8 * i);
    }
}

/* Writes another count, mostly near the true one: the arena's bytes, the buffers, stages, unused
 * and classes, the plan's bytes, or what a stage says of its values, tables and step. */
static void forge_count(uint8_t *data, size_t bytes, uint32_t plan)
{
    static const uint8_t places[7] = {0, 2, 4, 6, 8, 10, 20};
    uint32_t buffers = data[plan + 4], stages = data[plan + 6], place = places[number(7)];
    uint32_t size = 1 + number(2);

    if (number(3) == 0) {
        place = 24 + 20 * buffers + 44 * number(stages) + 16 + number(12);
    }
    if (plan + place + size < bytes) {
        data[plan + place] = (uint8_t)(number(2) ? data[plan + place] + number(5) : number(256));
        data[plan + place + size - 1] |= (uint8_t)(number(4) ? 0 : number(256));
    }
}

/* Moves the border between header and streams, whose sum stays right. */
static void forge_lengths(uint8_t *data)
{
    uint32_t header = data[12] | (uint32_t)data[13] << 8, moved = number(header), i;
    uint32_t streams = data[16] | (uint32_t)data[17] << 8 | (uint32_t)data[18] << 16;

    for (i = 0; i < 4; i++) {
        data[12 + i] = (uint8_t)((header - moved) >> 8 * i);
        data[16 + i] = (uint8_t)((streams + moved) >> 8 * i);
    }
}

/* Returns the number of bytes of the damaged file; its plan is damaged the most often. */
static size_t damage(uint8_t *data, size_t bytes)
{
    uint32_t header = data[12] | (uint32_t)data[13] << 8, flips = 1 + number(4), place;

    switch (number(8)) {
    case 0:
        return number((uint32_t)bytes);
    case 1:
    case 2:
        forge_count(data, bytes, 20 + header);
        return bytes;
    case 3:
        forge_lengths(data);
        return bytes;
    default:
        break;
    }
    while (flips--) {
        place = number(4) ? 20 + header + number(2000) : number((uint32_t)bytes);
        if (place < bytes) {
            data[place] ^= (uint8_t)(1 + number(255));
        }
    }
    return bytes;
}

int main(int count, char **names)
{
    size_t bytes, pixels;
    uint8_t *file, *image;
    int32_t *wanted, *logits;
    unsigned long counts[8] = {0}, cases, i, forged = 0;
    sqz_network whole, network;
    uint8_t *arena;

    if (count != 5) {
        return 100;
    }
    file = content(names[1], &bytes);
    image = content(names[2], &pixels);
    cases = strtoul(names[3], NULL, 10);
    state = (uint32_t)strtoul(names[4], NULL, 10) | 1u;
    if (sqz_open(&whole, file, bytes) != SQZ_OK) {
        return 101;
    }
    wanted = malloc(whole.classes * sizeof *wanted);
    arena = malloc(whole.arena_bytes);
    memcpy(sqz_pixels(&whole, arena), image, 3u * whole.size * whole.size);
    if (sqz_run(&whole, arena, whole.arena_bytes, wanted) != SQZ_OK) {
        return 102;
    }
    free(arena);
    for (i = 0; i < cases; i++) {
        uint8_t *copy = malloc(bytes), *exact;
        int sealed = (int)(i & 1), status;
        size_t size;

        memcpy(copy, file, bytes);
        size = damage(copy, bytes);
        exact = malloc(size + (size == 0)); /* so that the sanitizers see a byte too far */
        memcpy(exact, copy, size);
        free(copy);
        if (sealed && size > 24) {
            seal(exact, size);
        }
        status = sqz_open(&network, exact, size);
        if (status == SQZ_OK && network.arena_bytes <= 1u << 22) {
            int same = size == bytes && memcmp(exact, file, size) == 0;

            arena = calloc(1, network.arena_bytes);
            logits = calloc(network.classes, sizeof *logits);
            if (network.size == whole.size) {
                memcpy(sqz_pixels(&network, arena), image, 3u * whole.size * whole.size);
            }
            status = sqz_run(&network, arena, network.arena_bytes, logits);
            if (status == SQZ_OK && !sealed &&
                (!same || memcmp(logits, wanted, whole.classes * sizeof *logits) != 0)) {
                return 103;
            }
            forged += status == SQZ_OK && !same;
            free(arena);
            free(logits);
        }
        counts[status]++;
        free(exact);
    }
    printf("%lu cases: ok %lu (%lu forged), no file %lu, version %lu, cut %lu, checksum %lu, ",
           cases, counts[0], forged, counts[1], counts[2], counts[3], counts[4]);
    printf("damaged %lu\n", counts[5]);
    free(file);
    free(image);
    free(wanted);
    return 0;
}
