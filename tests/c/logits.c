/* logits FILE.sqz PIXELS: writes the logits of each image in PIXELS to standard output.
 *
 * The file and the arena lie in blocks of exactly their size, so that the sanitizers see any byte
 * beyond. The exit code is the status of the runtime.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "content.h"
#include "squeezenext.h"

int main(int count, char **names)
{
    sqz_network network;
    sqz_status status;
    size_t bytes, pixels, image, i;
    uint8_t *file, *images, *arena;
    int32_t *logits;

    if (count != 3) {
        return 100;
    }
    file = content(names[1], &bytes);
    images = content(names[2], &pixels);
    status = sqz_open(&network, file, bytes);
    if (status != SQZ_OK) {
        if (sqz_run(&network, images, pixels, NULL) == SQZ_OK) {
            return 102;
        }
        free(file);
        free(images);
        return status;
    }
    image = 3u * network.size * network.size;
    arena = malloc(network.arena_bytes);
    logits = malloc(network.classes * sizeof *logits);
    if (sqz_run(&network, arena, network.arena_bytes - 1, logits) != SQZ_ARENA ||
        sqz_run(&network, arena + 4, network.arena_bytes, logits) != SQZ_ARENA) {
        return 101;
    }
    for (i = 0; (i + 1) * image <= pixels && status == SQZ_OK; i++) {
        memset(arena, 0xA5, network.arena_bytes);
        memcpy(sqz_pixels(&network, arena), images + i * image, image);
        status = sqz_run(&network, arena, network.arena_bytes, logits);
        fwrite(logits, sizeof *logits, network.classes, stdout);
    }
    free(file);
    free(images);
    free(arena);
    free(logits);
    return status;
}
