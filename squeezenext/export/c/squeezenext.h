/* Runs an image classifier from a .sqz file of whole numbers, in C99.
 *
 * No memory is allocated, nothing recurses, and no float is used: the logits are those of
 * `predict.py` to the last bit. The file stays where it is, in flash. Its weights are decoded in
 * blocks of filters, and maps are computed in strips of rows, as the plan in the file says.
 *
 *     static uint64_t arena[ARENA_BYTES / 8];
 *     sqz_network network;
 *     if (sqz_open(&network, file, file_bytes) != SQZ_OK) ...
 *     if (network.arena_bytes > sizeof arena || network.classes > CLASSES) ...
 *     fill(sqz_pixels(&network, arena));            size x size x 3 bytes, red, green, blue
 *     if (sqz_run(&network, arena, sizeof arena, logits) != SQZ_OK) ...
 */
#ifndef SQUEEZENEXT_H
#define SQUEEZENEXT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    SQZ_OK = 0,
    SQZ_NO_FILE,   /* these bytes are no .sqz file; of `sqz_run`: none was opened */
    SQZ_VERSION,   /* not made with --integer, or by another version */
    SQZ_CUT,       /* the file has another length than its header says */
    SQZ_CHECKSUM,  /* the file is damaged */
    SQZ_DAMAGED,   /* the checksum is right, but no such network can be */
    SQZ_ARENA      /* the arena is too small, or not aligned to 8 bytes */
} sqz_status;

typedef struct {
    /* For you to read. */
    uint32_t arena_bytes; /* what `sqz_run` needs; aligned to 8 bytes */
    uint16_t size;        /* height and width of the image in pixels */
    uint16_t classes;     /* number of logits */
    float logit_scale;    /* value of a logit of 1 */
    /* Private. */
    const uint8_t *buffers, *stages, *codebooks, *biases, *coded, *end;
    uint32_t image;
    uint16_t buffer_count, stage_count;
    uint8_t shift, border[3];
} sqz_network;

/* Checks a file, all of it, and describes it in `network`. The bytes must stay readable. After an
 * error, `sqz_run` refuses the network, too. */
sqz_status sqz_open(sqz_network *network, const void *file, size_t bytes);

/* Returns where the image belongs, in an arena of at least `network->arena_bytes`; `sqz_run`
 * overwrites it. */
uint8_t *sqz_pixels(const sqz_network *network, void *arena);

/* Computes the logits, `network->classes` of them, of the image at `sqz_pixels`. */
sqz_status sqz_run(const sqz_network *network, void *arena, size_t bytes, int32_t *logits);

/* Returns the index of the greatest logit, of equal ones the first. */
uint16_t sqz_best(const int32_t *logits, uint16_t classes);

#ifdef __cplusplus
}
#endif
#endif
